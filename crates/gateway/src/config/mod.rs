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

/// The complete configuration. It contains secrets, so it is not `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The configuration as received, without secrets.
    #[serde(skip)]
    pub shown: Value,
    pub listen: String,
    pub admin: String,
    pub admin_credential: Secret,
    pub access_log: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    /// Further certificates, selected by the names in them.
    pub certificates: Vec<Certificate>,
    /// ACME settings. Python handles them; here they are only shown.
    pub acme: Value,
    /// A file with the secret that encrypts session tickets.
    pub ticket_secret: Option<String>,
    /// Serve HTTP/3 on the same port over UDP.
    pub http3: bool,
    /// Accept early data (0-RTT) over HTTP/3, and over TCP unless `ticket_secret` is set.
    pub early_data: bool,
    pub clients: Clients,
    pub threads: usize,
    /// In bytes, 0 for no limit.
    pub request_body_limit: u64,
    /// Networks (CIDR) of proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<String>,
    /// Alternatively, the number of proxies, whatever their addresses.
    pub trusted_hops: usize,
    /// Whether each connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    pub cache_bytes: u64,
    /// Token issuers.
    pub identity: Vec<Issuer>,
    pub api_keys: HashMap<String, ApiKey>,
    pub signing_keys: HashMap<String, SigningKey>,
    /// Highest first.
    pub tiers: Vec<String>,
    pub limits: HashMap<String, Limit>,
    pub telemetry: Telemetry,
    /// The store for limits shared with other gateways; without it, limits are local.
    pub shared_limits: Option<SharedLimits>,
    pub hooks: HashMap<String, Hook>,
    pub routes: Vec<Route>,
    pub services: HashMap<String, Service>,
}

impl Config {
    /// Parse a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut config: Self = serde_json::from_str(text)?;
        config.shown = without_secrets(serde_json::from_str(text)?);
        Ok(config)
    }

    /// The first setting that differs in `next` but can't change without a restart.
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

/// Names of settings that are secret or, as a URL, may contain a password.
const SECRETS: [&str; 4] = ["admin_credential", "password", "secret", "url"];

/// The document with secrets replaced.
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

/// PEM files.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

/// Timeouts and limits of client connections.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    pub head_seconds: f64,
    pub idle_seconds: f64,
    pub stall_seconds: f64,
    /// 0 for no limit.
    pub connections: usize,
    /// 0 for no limit.
    pub connections_per_address: usize,
    /// The kernel's congestion control algorithm, if not the system's default.
    pub congestion: Option<String>,
}

/// Traces and metrics.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The collector's URL, without `/v1/traces`; empty to disable traces.
    pub otlp_url: String,
    pub ca_file: Option<String>,
    pub service_name: String,
    pub sample_ratio: f64,
    pub slow_ms: u64,
    /// Tenants with metrics of their own.
    pub tenants: Vec<String>,
}
