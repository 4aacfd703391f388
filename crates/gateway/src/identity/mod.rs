//! Who asks: which credential a request shows, and what it proves.
//!
//! A verifier belongs to one snapshot of the configuration. What is costly or must not be forgotten
//! outlives it: an issuer goes on with its keys for as long as its settings stay.

mod issuer;
mod keys;
mod known;
mod token;

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header;
use hyper::http::request::Parts;

pub use issuer::{Issuer, keep_fresh};

use crate::Error;
use crate::config::Config;
use crate::headers::text;
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
    /// The text of a claim that was kept, empty if the credential has none.
    pub fn claim(&self, name: &str) -> &str {
        self.claims.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Why a credential is no good; the text may be shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("a bearer token is needed")]
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
    /// It is the gateway that can't tell, not the client that can't prove.
    #[error("the issuer's keys are not here yet")]
    NoKeys,
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::NoKeys => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, rejected.to_string()).retry_after(1)
            }
            _ => Self::new(StatusCode::UNAUTHORIZED, rejected.to_string()),
        }
    }
}

/// All that vouches for clients in one configuration.
pub struct Verifier {
    pub issuers: Vec<Arc<Issuer>>,
}

impl Verifier {
    /// What `config` says of identity, with the issuers of `before` that stay as they are; nothing
    /// if it says nothing.
    ///
    /// # Errors
    /// `Error::Config` for two issuers of one name.
    pub fn new(config: &Config, before: Option<&Self>) -> Result<Option<Self>, Error> {
        let mut issuers: Vec<Arc<Issuer>> = Vec::new();
        for issuer in &config.identity {
            if issuers.iter().any(|each| each.config.issuer == issuer.issuer) {
                return Err(Error::Config(format!("issuer {} is configured twice", issuer.issuer)));
            }
            issuers.push(Issuer::new(issuer, before.map_or(&[], |before| &before.issuers)));
        }
        Ok((!issuers.is_empty()).then_some(Self { issuers }))
    }

    /// Who sent a request, at `now` (seconds since 1970).
    ///
    /// # Errors
    /// Why its credential is no good.
    pub fn identify(&self, parts: &Parts, now: u64) -> Result<Arc<Bearer>, Rejected> {
        let authorization = text(&parts.headers, header::AUTHORIZATION);
        match authorization.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.token(token.trim(), now),
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
