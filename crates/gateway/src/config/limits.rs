//! Settings of rate limits, and of the store that shares them between gateways.

use hyper::header::HeaderName;
use serde::Deserialize;

use crate::secret::Secret;

/// A rate limit per key: a rate and a burst, or requests per window.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub key: LimitKey,
    pub algorithm: Algorithm,
    pub rate: Option<f64>,
    pub burst: Option<u32>,
    pub requests: Option<u32>,
    pub window_seconds: Option<f64>,
    pub fallback: Fallback,
    pub strict: bool,
    pub tell: bool,
}

/// The algorithm of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    Gcra,
    SlidingCounter,
    SlidingLog,
    FixedWindow,
}

/// What a shared limit does while its store is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Each gateway limits by itself, so n gateways together admit n times the rate.
    Local,
    /// Requests are refused.
    Refuse,
}

/// The store of limits that are shared by all gateways.
#[derive(PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedLimits {
    pub url: String,
    /// Empty for none.
    pub password: Secret,
    /// A prefix of every key's name.
    pub prefix: String,
    /// The interval of reconciliation with the store.
    pub interval_ms: u64,
}

/// The key of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LimitKey {
    Tenant,
    Address,
    /// All requests of a route's path share one count.
    Route,
    Claim(String),
    Header(HeaderName),
}

impl TryFrom<String> for LimitKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "tenant" => Ok(Self::Tenant),
            None if text == "address" => Ok(Self::Address),
            None if text == "route" => Ok(Self::Route),
            Some(("claim", name)) if !name.is_empty() => Ok(Self::Claim(name.into())),
            Some(("header", name)) => {
                name.parse().map(Self::Header).map_err(|_| format!("{name:?} is no name of a header"))
            }
            _ => Err(format!("{text:?} is no key: tenant, address, route, claim:NAME or header:NAME")),
        }
    }
}

impl std::fmt::Display for LimitKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tenant => f.write_str("tenant"),
            Self::Address => f.write_str("address"),
            Self::Route => f.write_str("route"),
            Self::Claim(name) => write!(f, "claim:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}
