//! Authentication: which credential a request carries, and whom it identifies.
//!
//! A verifier belongs to one snapshot of the configuration. Expensive or security-relevant state outlives it:
//! an issuer keeps its keys as long as its settings don't change, and accepted signatures are kept across
//! reloads.

mod api_key;
mod issuer;
pub mod keys;
mod known;
mod signature;
pub mod token;

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header;
use hyper::http::request::Parts;

pub use issuer::{Issuer, keep_fresh};
pub use signature::{BodyDigest, Replays};

use crate::Error;
use crate::config::Config;
use crate::headers::{API_KEY, text};
use crate::identity::api_key::ApiKeys;
use crate::identity::signature::SigningKeys;
use crate::identity::token::Token;
use crate::respond::Problem;

/// The identity that a credential proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub tenant: String,
    pub tier: String,
    /// Other claims, as far as limits use them.
    pub claims: Vec<(String, String)>,
    /// Seconds since 1970.
    pub expires: u64,
}

impl Bearer {
    /// The owner of a configured key; it does not expire.
    fn of_key(tenant: &str, tier: &str) -> Arc<Self> {
        let (tenant, tier) = (tenant.to_owned(), tier.to_owned());
        Arc::new(Self { tenant, tier, claims: Vec::new(), expires: u64::MAX })
    }

    /// The value of a claim in `claims`; empty if the credential has none.
    pub fn claim(&self, name: &str) -> &str {
        self.claims.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Why a credential is rejected. The text may be shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("a bearer token, an API key or a signature is needed")]
    Missing,
    #[error("the token is not a JSON Web Token")]
    Malformed,
    #[error("the token is of another type than an access token")]
    Type,
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
    #[error("the API key is not known")]
    ApiKey,
    #[error("the request's signature {0}")]
    Signed(&'static str),
    #[error("there are more signed requests than can be told apart at the moment")]
    TooManySigned,
    /// The fault is the gateway's: it has no keys yet.
    #[error("the issuer's keys are not here yet")]
    NoKeys,
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::NoKeys | Rejected::TooManySigned => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, rejected.to_string()).retry_after(1)
            }
            Rejected::Missing | Rejected::ApiKey | Rejected::Signed(_) => {
                Self::new(StatusCode::UNAUTHORIZED, rejected.to_string())
            }
            _ => Self::new(StatusCode::UNAUTHORIZED, rejected.to_string()).bad_token(),
        }
    }
}

/// All issuers and keys of one configuration.
pub struct Verifier {
    pub issuers: Vec<Arc<Issuer>>,
    api_keys: ApiKeys,
    signing_keys: SigningKeys,
}

impl Verifier {
    /// Build the verifier for `config`, with the issuers of `before` whose settings are unchanged; `None` if
    /// no identity is configured. `replays` holds the signatures accepted so far.
    ///
    /// # Errors
    /// `Error::Setting` for an issuer that is configured twice, `Error::Config` for invalid keys.
    pub fn new(
        config: &Config,
        before: Option<&Self>,
        replays: &Arc<Replays>,
    ) -> Result<Option<Self>, Error> {
        let mut issuers: Vec<Arc<Issuer>> = Vec::new();
        for issuer in &config.identity {
            if issuers.iter().any(|each| each.config.issuer == issuer.issuer) {
                let detail = format!("issuer {} is configured twice", issuer.issuer);
                return Err(Error::Setting { setting: "identity".into(), detail });
            }
            issuers.push(Issuer::new(issuer, before.map_or(&[], |before| &before.issuers)));
        }
        let api_keys = ApiKeys::new(&config.api_keys)?;
        let signing_keys = SigningKeys::new(&config.signing_keys, Arc::clone(replays))?;
        let nobody = issuers.is_empty() && api_keys.is_empty() && signing_keys.is_empty();
        Ok((!nobody).then_some(Self { issuers, api_keys, signing_keys }))
    }

    /// Identify the sender of a request at `now` (seconds since 1970). For a signed request, also return the
    /// digest that its body must have. Only the first credential counts: a token, a signature, an API key.
    ///
    /// # Errors
    /// Why the credential is rejected.
    pub fn identify(
        &self,
        parts: &Parts,
        has_body: bool,
        now: u64,
    ) -> Result<(Arc<Bearer>, Option<BodyDigest>), Rejected> {
        let headers = &parts.headers;
        match text(headers, header::AUTHORIZATION).split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok((self.token(token.trim(), now)?, None))
            }
            _ if !self.signing_keys.is_empty() && headers.contains_key(signature::SIGNATURE_INPUT) => {
                self.signing_keys.check(parts, has_body, now)
            }
            _ if !self.api_keys.is_empty() && headers.contains_key(API_KEY) => {
                Ok((self.api_keys.check(text(headers, API_KEY))?, None))
            }
            _ => Err(Rejected::Missing),
        }
    }

    fn token(&self, text: &str, now: u64) -> Result<Arc<Bearer>, Rejected> {
        known::find_or_check(text, now, &self.issuers, || {
            let token = Token::parse(text)?;
            let issuer = self.issuers.iter().find(|each| token.is_from(&each.config.issuer));
            issuer.ok_or(Rejected::Issuer)?.check(&token, now)
        })
    }
}
