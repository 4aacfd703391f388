//! Validates JSON Web Tokens (RFC 7519, RFC 8725): ES256 and RS256, and nothing that the token
//! itself proposes beyond that.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::Identity;

/// Leeway for clocks that differ, in seconds (RFC 8725 suggests no more than a few minutes).
const LEEWAY_SECONDS: u64 = 30;
/// A token longer than this is not looked at.
const TOKEN_LIMIT: usize = 8 * 1024;

/// A verification key from a JWKS (RFC 7517).
#[derive(Debug, Clone)]
pub enum Key {
    Es256(Vec<u8>),
    Rs256 { n: Vec<u8>, e: Vec<u8> },
}

/// Who asks: what the token says of its bearer.
#[derive(Debug, Clone)]
pub struct Bearer {
    pub tenant: String,
    pub tier: String,
    /// Those further ones that limits count by.
    pub claims: Vec<(String, String)>,
    pub expires: u64,
}

impl Bearer {
    /// The text of a claim that was kept, empty if the token has none.
    pub fn claim(&self, name: &str) -> &str {
        self.claims.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Why a token is no good; the text may be shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("a bearer token is needed")]
    Missing,
    #[error("the token is not a JSON Web Token")]
    Malformed,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token's key is not known")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token is from another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token names no tenant")]
    NoTenant,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Check `token` at `now` (seconds since 1970) against the keys that `find` knows.
pub fn verify(
    identity: &Identity,
    token: &str,
    now: u64,
    find: impl FnOnce(&str) -> Option<Key>,
) -> Result<Bearer, Rejected> {
    if token.len() > TOKEN_LIMIT {
        return Err(Rejected::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Rejected::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(Rejected::Malformed)?;
    let header: Header = decode(header)?;
    if header.crit.is_some() {
        return Err(Rejected::Malformed);
    }
    if !matches!(header.alg.as_str(), "ES256" | "RS256") {
        return Err(Rejected::Algorithm);
    }
    let key = find(header.kid.as_deref().unwrap_or_default()).ok_or(Rejected::UnknownKey)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Rejected::Malformed)?;
    // The key decides which algorithm is right; a token that claims another is refused, so a
    // public key can't be passed off as a shared secret.
    match (&key, header.alg.as_str()) {
        (Key::Es256(point), "ES256") => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature)
        }
        (Key::Rs256 { n, e }, "RS256") => {
            RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
        }
        _ => return Err(Rejected::Algorithm),
    }
    .map_err(|_| Rejected::Signature)?;
    claims(identity, &decode(payload)?, now)
}

fn claims(identity: &Identity, claims: &Map<String, Value>, now: u64) -> Result<Bearer, Rejected> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("iss") != identity.issuer {
        return Err(Rejected::Issuer);
    }
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => *one == identity.audience,
        Some(Value::Array(many)) => many.iter().any(|one| one == &identity.audience),
        _ => false,
    };
    if !audience {
        return Err(Rejected::Audience);
    }
    let expires = claims.get("exp").and_then(Value::as_u64).ok_or(Rejected::Expired)?;
    if expires.saturating_add(LEEWAY_SECONDS) <= now {
        return Err(Rejected::Expired);
    }
    match claims.get("nbf").map(Value::as_u64) {
        Some(Some(start)) if start > now + LEEWAY_SECONDS => return Err(Rejected::NotYet),
        Some(None) => return Err(Rejected::Malformed),
        _ => {}
    }
    let tenant = text(&identity.tenant_claim);
    if tenant.is_empty() || tenant.len() > 128 || !tenant.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Rejected::NoTenant);
    }
    let tier = match text(&identity.tier_claim) {
        "gold" => "gold",
        _ => "bronze",
    };
    let kept = identity.claims.iter().map(|name| (name.clone(), text(name).to_owned())).collect();
    Ok(Bearer { tenant: tenant.to_owned(), tier: tier.to_owned(), claims: kept, expires })
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, Rejected> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Rejected::Malformed)
}
