//! Authentication: which credential a request carries, and what it proves.
//!
//! A verifier belongs to one snapshot of the configuration. What is costly or must not be forgotten
//! outlives it: an issuer goes on with its keys for as long as its settings stay.

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

/// Who asks: what a credential says of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub tenant: String,
    pub tier: String,
    /// Those further ones that limits count by.
    pub claims: Vec<(String, String)>,
    /// Seconds since 1970.
    pub expires: u64,
}

impl Bearer {
    /// Who a key of the configuration belongs to: as long as it is configured.
    fn of_key(tenant: &str, tier: &str) -> Arc<Self> {
        let (tenant, tier) = (tenant.to_owned(), tier.to_owned());
        Arc::new(Self { tenant, tier, claims: Vec::new(), expires: u64::MAX })
    }

    /// The text of a claim that was kept, empty if the credential has none.
    pub fn claim(&self, name: &str) -> &str {
        self.claims.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Why a credential is no good; the text may be shown to the client.
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
    /// It is the gateway that can't tell, not the client that can't prove.
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

/// All that vouches for clients in one configuration.
pub struct Verifier {
    pub issuers: Vec<Arc<Issuer>>,
    api_keys: ApiKeys,
    signing_keys: SigningKeys,
}

impl Verifier {
    /// What `config` says of identity, with the issuers of `before` that stay as they are; nothing
    /// if it says nothing. What is in `replays` was accepted before.
    ///
    /// # Errors
    /// `Error::Config` for two issuers of one name, and for keys that are none.
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

    /// Who sent a request, at `now` (seconds since 1970), and, if it is signed, what its body has to
    /// be. The first credential that it shows decides: a token, a signature, an API key.
    ///
    /// # Errors
    /// Why its credential is no good.
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
