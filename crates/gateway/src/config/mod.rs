//! The configuration as Python passes it: already validated, every default filled in.

mod identity;
mod limits;
mod route;
mod service;

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

pub use self::identity::{ApiKey, Issuer, SigningKey};
pub use self::limits::{Algorithm, Fallback, Limit, LimitKey, SharedLimits};
pub use self::route::{
    Cache, Compression, Cors, HeaderEdits, Hook, Mirror, OnFailure, Rewrite, Route, Split,
};
pub use self::service::{Balance, Protocol, Service, ServiceTls};
use crate::secret::Secret;

/// All that the data plane needs to know. Holds secrets, so it can't be printed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// All of this as it was given, without what is secret.
    #[serde(skip)]
    pub shown: Value,
    pub listen: String,
    pub admin: String,
    pub admin_credential: Secret,
    pub access_log: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    /// Further ones, for the names that they say.
    pub certificates: Vec<Certificate>,
    /// Which names are asked of an ACME directory: kept by Python, and only shown here.
    pub acme: Value,
    /// A file with the secret of tickets.
    pub ticket_secret: Option<String>,
    /// HTTP/3 as well, on the same port of UDP.
    pub http3: bool,
    /// Early data (0-RTT): over HTTP/3, and without `ticket_secret` over TCP.
    pub early_data: bool,
    pub clients: Clients,
    pub threads: usize,
    /// In bytes, 0 for none.
    pub request_body_limit: u64,
    /// Networks (CIDR) of proxies whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<String>,
    /// Or how many proxies there are, whatever their addresses.
    pub trusted_hops: usize,
    /// Whether each connection begins by saying whose it is.
    pub proxy_protocol: bool,
    pub cache_bytes: u64,
    /// Who vouches for clients by tokens.
    pub identity: Vec<Issuer>,
    pub api_keys: HashMap<String, ApiKey>,
    pub signing_keys: HashMap<String, SigningKey>,
    /// The highest first.
    pub tiers: Vec<String>,
    pub limits: HashMap<String, Limit>,
    pub telemetry: Telemetry,
    /// Where limits are shared with other gateways; without it they are this one's own.
    pub shared_limits: Option<SharedLimits>,
    pub hooks: HashMap<String, Hook>,
    pub routes: Vec<Route>,
    pub services: HashMap<String, Service>,
}

impl Config {
    /// Read a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut config: Self = serde_json::from_str(text)?;
        config.shown = without_secrets(serde_json::from_str(text)?);
        Ok(config)
    }

    /// The first setting that differs in `next` and was settled when the gateway started.
    pub fn fixed_at_start(&self, next: &Self) -> Option<&'static str> {
        let settings = [
            ("listen", self.listen == next.listen),
            ("admin", self.admin == next.admin),
            ("admin_credential", self.admin_credential == next.admin_credential),
            ("tls", self.certificate.is_some() == next.certificate.is_some()),
            ("ticket_secret", self.ticket_secret == next.ticket_secret),
            ("http3", self.http3 == next.http3),
            ("early_data", self.early_data == next.early_data),
            ("clients", self.clients == next.clients),
            ("threads", self.threads == next.threads),
            ("proxy_protocol", self.proxy_protocol == next.proxy_protocol),
            ("the store of shared limits", self.shared_limits == next.shared_limits),
        ];
        settings.into_iter().find_map(|(setting, same)| (!same).then_some(setting))
    }
}

/// What secrets are called in the configuration, and an address that may hold a password.
const SECRETS: [&str; 4] = ["admin_credential", "password", "secret", "url"];

/// A document with nothing secret in it.
fn without_secrets(document: Value) -> Value {
    match document {
        Value::Object(fields) => {
            let hidden = |(name, value): (String, Value)| match value {
                Value::String(_) if SECRETS.contains(&name.as_str()) => (name, "(hidden)".into()),
                value => (name, without_secrets(value)),
            };
            Value::Object(fields.into_iter().map(hidden).collect())
        }
        Value::Array(items) => items.into_iter().map(without_secrets).collect(),
        other => other,
    }
}

/// Files in PEM.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

/// How long clients are waited for, and how many may be connected.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    pub head_seconds: f64,
    pub idle_seconds: f64,
    pub stall_seconds: f64,
    /// 0 for as many as come.
    pub connections: usize,
    /// 0 for as many as come.
    pub connections_per_address: usize,
    /// The kernel's algorithm for their connections, unless it is to be the usual one.
    pub congestion: Option<String>,
}

/// What is told of requests, and to whom.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The collector's address, without `/v1/traces`; empty for no traces.
    pub otlp_url: String,
    pub ca_file: Option<String>,
    pub service_name: String,
    pub sample_ratio: f64,
    pub slow_ms: u64,
    /// Those that metrics tell apart.
    pub tenants: Vec<String>,
}
