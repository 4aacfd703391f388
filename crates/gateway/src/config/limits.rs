//! Settings of limits, and of the store that shares them.

use hyper::header::HeaderName;
use serde::Deserialize;

use crate::secret::Secret;

/// How much each key may ask for: a rate and a burst, or requests in a window.
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

/// How a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    Gcra,
    SlidingCounter,
    SlidingLog,
    FixedWindow,
}

/// What a limit does while the store that it is shared by is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Each gateway limits alone: all together admit as many times the rate.
    Local,
    /// Nothing passes.
    Refuse,
}

/// The store of limits that hold over all gateways.
#[derive(PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedLimits {
    pub url: String,
    /// Empty for none.
    pub password: Secret,
    /// Before the name of every key.
    pub prefix: String,
    /// Between two exchanges.
    pub interval_ms: u64,
}

/// What a limit counts by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LimitKey {
    Tenant,
    Address,
    /// One account for all requests of a path.
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
