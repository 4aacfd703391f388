//! JSON Web Key Sets of issuers (RFC 7517).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

/// The maximum number of keys of an issuer. Usually two or three are in use; a larger set can't be one of
/// verification keys.
const KEYS: usize = 100;

/// A verification key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Es256(Vec<u8>),
    Ed25519(Vec<u8>),
    Rs256 { n: Vec<u8>, e: Vec<u8> },
}

/// A published key. Ids need not be present or unique: several keys may have none, or the same if they are of
/// different types (section 4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Empty if it has none.
    pub id: String,
    pub key: Key,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// Parse a key set. Keys for other purposes, of other types, or with missing parameters are skipped (section
/// 5).
///
/// # Errors
/// It isn't a key set, or none of its keys is usable.
pub fn parse(document: &[u8]) -> Result<Vec<Named>, String> {
    let Document { keys } =
        serde_json::from_slice(document).map_err(|error| format!("no key set: {error}"))?;
    if keys.len() > KEYS {
        return Err(format!("{} keys, which is more than {KEYS}", keys.len()));
    }
    let named = |entry: Value| {
        let mut entry: Entry = serde_json::from_value(entry).ok()?;
        Some(Named { id: entry.kid.take().unwrap_or_default(), key: key(entry)? })
    };
    let usable: Vec<_> = keys.into_iter().filter_map(named).collect();
    if usable.is_empty() {
        return Err("no key for ES256, RS256 or EdDSA in the set".into());
    }
    Ok(usable)
}

fn key(entry: Entry) -> Option<Key> {
    let verifies = entry.key_ops.is_none_or(|operations| operations.iter().any(|each| each == "verify"));
    if entry.purpose.is_some_and(|purpose| purpose != "sig") || !verifies {
        return None;
    }
    let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
    let (algorithm, key) = match (entry.kty.as_str(), entry.crv.as_deref()) {
        ("EC", Some("P-256")) => {
            let mut point = vec![4];
            point.extend(bytes(entry.x)?);
            point.extend(bytes(entry.y)?);
            ("ES256", Key::Es256(point))
        }
        ("OKP", Some("Ed25519")) => ("EdDSA", Key::Ed25519(bytes(entry.x)?)),
        ("RSA", _) => ("RS256", Key::Rs256 { n: bytes(entry.n)?, e: bytes(entry.e)? }),
        _ => return None,
    };
    // RFC 9864 adds a name for Ed25519.
    let named = entry.alg.as_deref().unwrap_or(algorithm);
    (named == algorithm || (named == "Ed25519" && algorithm == "EdDSA")).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_for_other_purposes_and_of_other_kinds_are_passed_over() {
        let set = br#"{"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "good", "x": "AAAA"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "to encrypt with", "use": "enc", "x": "AAAA"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "to sign with", "key_ops": ["sign"], "x": "AAAA"},
            {"kty": "OKP", "crv": "Ed25519", "kid": 7, "x": "AAAA"},
            {"kid": "of no kind"},
            "no key at all",
            {"kty": "OKP", "crv": "X25519", "kid": "to agree by", "x": "AAAA"},
            {"kty": "oct", "kid": "shared", "k": "AAAA"},
            {"kty": "RSA", "kid": "for another algorithm", "alg": "PS256", "n": "AAAA", "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "kid": "torn", "x": "AAAA"}
        ]}"#;
        let keys = parse(set).unwrap();
        assert_eq!(keys.iter().map(|each| &each.id).collect::<Vec<_>>(), ["good"]);
    }

    #[test]
    fn keys_without_names_and_with_the_same_are_all_kept() {
        let set = br#"{"keys": [
            {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
            {"kty": "OKP", "crv": "Ed25519", "x": "BBBB"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "both", "key_ops": ["verify"], "x": "AAAA"},
            {"kty": "RSA", "kid": "both", "n": "AAAA", "e": "AQAB"}
        ]}"#;
        let keys = parse(set).unwrap();
        assert_eq!(keys.iter().map(|each| &*each.id).collect::<Vec<_>>(), ["", "", "both", "both"]);
        assert_ne!(keys[0].key, keys[1].key);
    }

    #[test]
    fn what_is_no_set_of_usable_keys_is_an_error() {
        let many = format!(r#"{{"keys": [{}]}}"#, vec![r#"{"kty": "oct"}"#; KEYS + 1].join(","));
        for (document, says) in
            [("<html>", "no key set"), (r#"{"keys": []}"#, "no key for"), (&many, "more than")]
        {
            assert!(parse(document.as_bytes()).unwrap_err().contains(says), "{document:.40}");
        }
    }
}
