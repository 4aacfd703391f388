//! Settings of issuers, API keys and signing keys.

use serde::Deserialize;

use crate::secret::Secret;

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    pub issuer: String,
    pub audience: String,
    /// Empty: where the issuer says that its keys are.
    pub jwks_url: String,
    /// Authorities that vouch for the issuer's certificate, in PEM; without it, this machine's.
    pub ca_file: Option<String>,
    pub tenant_claim: String,
    pub tier_claim: String,
    /// The tiers that there are, the highest first.
    #[serde(skip)]
    pub tiers: Vec<String>,
    /// Further claims that limits count by.
    #[serde(skip)]
    pub claims: Vec<String>,
}

/// Who may show a key, of which only the digest is known here.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Of the whole key, in hex.
    pub sha256: String,
    pub tenant: String,
    pub tier: String,
}

/// Who may sign requests, and by which secret.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    pub secret: Secret,
    pub tenant: String,
    pub tier: String,
}
