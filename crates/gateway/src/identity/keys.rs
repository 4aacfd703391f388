//! An issuer's verification keys, as it publishes them (JSON Web Key Set, RFC 7517).

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Keys of one issuer. Those in use are two or three; a set beyond this is not one of keys to
/// verify tokens by.
const KEYS: usize = 100;

/// A verification key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Es256(Vec<u8>),
    Ed25519(Vec<u8>),
    Rs256 { n: Vec<u8>, e: Vec<u8> },
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// The keys in a published set by their names; those for other purposes and of other kinds are
/// passed over.
///
/// # Errors
/// When it isn't a key set, or none of its keys can be used.
pub fn parse(document: &[u8]) -> Result<HashMap<String, Key>, String> {
    let Document { keys } =
        serde_json::from_slice(document).map_err(|error| format!("no key set: {error}"))?;
    if keys.len() > KEYS {
        return Err(format!("{} keys, which is more than {KEYS}", keys.len()));
    }
    let usable: HashMap<_, _> = keys
        .into_iter()
        .filter_map(|mut entry| Some((entry.kid.take().unwrap_or_default(), key(entry)?)))
        .collect();
    if usable.is_empty() {
        return Err("no key for ES256, RS256 or EdDSA in the set".into());
    }
    Ok(usable)
}

fn key(entry: Entry) -> Option<Key> {
    if entry.purpose.is_some_and(|purpose| purpose != "sig") {
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
    // RFC 9864 has a name of its own for Ed25519.
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
            {"kty": "OKP", "crv": "X25519", "kid": "to agree by", "x": "AAAA"},
            {"kty": "oct", "kid": "shared", "k": "AAAA"},
            {"kty": "RSA", "kid": "for another algorithm", "alg": "PS256", "n": "AAAA", "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "kid": "torn", "x": "AAAA"}
        ]}"#;
        let keys = parse(set).unwrap();
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["good"]);
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
