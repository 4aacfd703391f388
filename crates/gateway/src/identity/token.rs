//! Validates JSON Web Tokens (RFC 7519, RFC 8725). Accepts ES256, RS256 and EdDSA with Ed25519 (which RFC
//! 9864 names `Ed25519`), and no other algorithm that a token proposes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config;
use crate::identity::keys::Key;
use crate::identity::{Bearer, Rejected};

/// Tolerated clock skew, in seconds (RFC 7519 suggests no more than a few minutes).
const LEEWAY_SECONDS: u64 = 30;
/// The maximum length of a token.
const TOKEN_LIMIT: usize = 8 * 1024;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// A parsed token whose signature has not been verified.
pub struct Token<'a> {
    header: Header,
    claims: Map<String, Value>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Parse a token.
    pub fn parse(text: &'a str) -> Result<Self, Rejected> {
        if text.len() > TOKEN_LIMIT {
            return Err(Rejected::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Rejected::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Rejected::Malformed)?;
        let header: Header = decode(header)?;
        // No critical extension is supported, so the token must be rejected (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(Rejected::Malformed);
        }
        // A token of the same issuer for another purpose is no access token (RFC 8725, section 3.11).
        let kind = header.typ.as_deref().unwrap_or("JWT");
        let kind = kind
            .get(..12)
            .filter(|start| start.eq_ignore_ascii_case("application/"))
            .map_or(kind, |_| &kind[12..]);
        if !["JWT", "at+jwt"].iter().any(|accepted| kind.eq_ignore_ascii_case(accepted)) {
            return Err(Rejected::Type);
        }
        if !matches!(header.alg.as_str(), "ES256" | "RS256" | "EdDSA" | "Ed25519") {
            return Err(Rejected::Algorithm);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Rejected::Malformed)?;
        Ok(Self { header, claims: decode(payload)?, signed: signed.as_bytes(), signature })
    }

    /// Whether it claims to be from `issuer`.
    pub fn is_from(&self, issuer: &str) -> bool {
        self.text("iss") == issuer
    }

    /// The key id, empty if there is none.
    pub fn key_id(&self) -> &str {
        self.header.kid.as_deref().unwrap_or_default()
    }

    /// Whether its algorithm is the one for this type of key. The key determines the algorithm, so a public
    /// key can't be passed off as a shared secret.
    pub fn fits(&self, key: &Key) -> bool {
        matches!(
            (key, self.header.alg.as_str()),
            (Key::Es256(_), "ES256") | (Key::Ed25519(_), "EdDSA" | "Ed25519") | (Key::Rs256 { .. }, "RS256")
        )
    }

    /// Verify the signature and the claims at `now` (seconds since 1970).
    pub fn verify(&self, key: &Key, issuer: &config::Issuer, now: u64) -> Result<Bearer, Rejected> {
        if !self.fits(key) {
            return Err(Rejected::Algorithm);
        }
        match key {
            Key::Es256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point[..])
                .verify(self.signed, &self.signature),
            Key::Ed25519(point) => {
                UnparsedPublicKey::new(&ED25519, &point[..]).verify(self.signed, &self.signature)
            }
            Key::Rs256 { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                self.signed,
                &self.signature,
            ),
        }
        .map_err(|_| Rejected::Signature)?;
        self.bearer(issuer, now)
    }

    fn bearer(&self, issuer: &config::Issuer, now: u64) -> Result<Bearer, Rejected> {
        let audience = match self.claims.get("aud") {
            Some(Value::String(one)) => *one == issuer.audience,
            Some(Value::Array(many)) => many.iter().any(|one| one == &issuer.audience),
            _ => false,
        };
        if !audience {
            return Err(Rejected::Audience);
        }
        let expires = self.claims.get("exp").and_then(seconds).ok_or(Rejected::Expired)?;
        if expires.saturating_add(LEEWAY_SECONDS) <= now {
            return Err(Rejected::Expired);
        }
        match self.claims.get("nbf").map(seconds) {
            Some(Some(start)) if start > now + LEEWAY_SECONDS => return Err(Rejected::NotYet),
            Some(None) => return Err(Rejected::Malformed),
            _ => {}
        }
        let tenant = self.text(&issuer.tenant_claim);
        if tenant.is_empty() || tenant.len() > 128 || !tenant.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Rejected::NoTenant);
        }
        // An unknown tier counts as the lowest one.
        let tier = self.text(&issuer.tier_claim);
        let tier = issuer.tiers.iter().find(|known| *known == tier).or(issuer.tiers.last());
        let claims = issuer.claims.iter().map(|name| (name.clone(), self.text(name).to_owned())).collect();
        Ok(Bearer { tenant: tenant.to_owned(), tier: tier.cloned().unwrap_or_default(), claims, expires })
    }

    fn text(&self, claim: &str) -> &str {
        self.claims.get(claim).and_then(Value::as_str).unwrap_or_default()
    }
}

/// A `NumericDate` (RFC 7519, section 2) in whole seconds. Fractions are allowed: some issuers write
/// `time.time() + 3600`.
fn seconds(date: &Value) -> Option<u64> {
    // The cast saturates.
    date.as_u64().or_else(|| date.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, Rejected> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Rejected::Malformed)
}
