//! Settings of issuers, API keys and signing keys.

use serde::Deserialize;

use crate::secret::Secret;

/// A token issuer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    pub issuer: String,
    pub audience: String,
    /// Empty: discovered from the issuer's metadata.
    pub jwks_url: String,
    /// Trusted authorities in PEM; the system's if not set.
    pub ca_file: Option<String>,
    pub tenant_claim: String,
    pub tier_claim: String,
    /// All tiers, highest first.
    #[serde(skip)]
    pub tiers: Vec<String>,
    /// Other claims that limits use as keys.
    #[serde(skip)]
    pub claims: Vec<String>,
}

/// An API key, of which only the digest is stored.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// SHA-256 of the whole key, in hex.
    pub sha256: String,
    pub tenant: String,
    pub tier: String,
}

/// The secret of a client that signs requests.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    pub secret: Secret,
    pub tenant: String,
    pub tier: String,
}
