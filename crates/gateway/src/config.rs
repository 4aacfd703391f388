//! The configuration as Python hands it over, checked and complete.

use std::collections::HashMap;

use serde::Deserialize;

/// All that the data plane needs to know. Holds secrets, so it can't be printed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: String,
    pub admin: String,
    pub admin_credential: String,
    pub access_log: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub threads: usize,
    pub request_body_limit: usize,
    pub identity: Option<Identity>,
    pub limits: HashMap<String, Limit>,
    /// Where limits are shared with other gateways; without it they are this one's own.
    pub shared_limits: Option<SharedLimits>,
    pub routes: Vec<Route>,
    pub services: HashMap<String, Service>,
}

/// Who vouches for clients.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub issuer: String,
    pub audience: String,
    pub jwks_url: String,
    pub tenant_claim: String,
    pub tier_claim: String,
}

/// A rate for each key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub key: LimitKey,
    pub rate: f64,
    pub burst: u32,
    pub fallback: Fallback,
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedLimits {
    pub url: String,
    /// Empty for none.
    pub password: String,
    /// Before the name of every key.
    pub prefix: String,
    /// Between two exchanges.
    pub interval_ms: u64,
}

/// What a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitKey {
    Tenant,
    Address,
}

/// Which requests go to which service. A path that ends in `*` is a prefix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub path: String,
    pub methods: Vec<String>,
    pub service: String,
    pub identity: bool,
    pub limits: Vec<String>,
}

/// How a service is protected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub concurrency: usize,
    pub attempt_timeout_seconds: f64,
    pub attempts: u32,
    pub breaker_failures: u32,
    pub breaker_open_seconds: f64,
}
