//! The configuration as Python hands it over, checked and complete.

use std::collections::{BTreeMap, HashMap};

use counterfoil_policy::breaker;
use hyper::header::HeaderName;
use serde::Deserialize;
use serde_json::Value;

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
    /// Early data (0-RTT) over HTTP/3.
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

/// Processes that are asked about requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    pub addresses: Vec<String>,
    pub deadline_ms: u64,
    /// Requests that may wait for an answer at once.
    pub queue: usize,
    pub failure: OnFailure,
}

/// What becomes of a request that a hook has said nothing about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    Pass,
    Refuse,
}

/// Which requests go to which service. A path that ends in `*` is a prefix.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub path: String,
    pub methods: Vec<String>,
    /// Names by which clients ask; `*.` before one: all below it. Empty: any.
    pub hosts: Vec<String>,
    /// What headers must say.
    pub headers: HashMap<String, String>,
    /// Networks (CIDR) that may ask, all if there are none, and networks that may not.
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    /// Empty for a split and for a redirect.
    pub service: String,
    pub split: Option<Split>,
    pub mirror: Option<Mirror>,
    pub identity: bool,
    pub limits: Vec<String>,
    pub hooks: Vec<String>,
    /// In place of the gateway's.
    pub request_body_limit: Option<u64>,
    /// What a client's connection may go over to.
    pub upgrades: Vec<String>,
    /// Whether requests of safe methods go on before the handshake is complete.
    pub early_data: bool,
    /// Whether hints of the service (103) go on.
    pub early_hints: bool,
    /// Whether calls of gRPC-Web are made into such of gRPC.
    pub grpc_web: bool,
    pub cache: Option<Cache>,
    pub cors: Option<Cors>,
    pub rewrite: Option<Rewrite>,
    pub request_headers: Option<HeaderEdits>,
    pub response_headers: Option<HeaderEdits>,
    pub redirect: Option<Redirect>,
    pub compression: Option<Compression>,
}

/// Services that share a route's requests, and what tells whose a request is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    pub weights: BTreeMap<String, u32>,
    /// Without it each request goes its own way.
    pub by: Option<LimitKey>,
    /// In which a client may name its service.
    pub header: Option<String>,
}

/// Another service that gets copies of a part of the requests.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub service: String,
    pub percent: f64,
    /// Copies under way at once.
    pub concurrency: usize,
}

/// Which pages of other origins may ask, and read what is answered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    pub origins: Vec<String>,
    /// Empty: those of the route.
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub exposed_headers: Vec<String>,
    pub credentials: bool,
    pub max_age_seconds: u32,
}

/// A beginning of the path, and what the service gets in its place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    pub prefix: String,
    pub to: String,
}

/// Headers that are taken away, then set, then added.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    pub remove: Vec<String>,
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
}

/// Where clients of a route are sent, in place of a service that is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    pub status: u16,
    /// Each empty: as it was asked for.
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub prefix: String,
    /// In place of the prefix.
    pub to: String,
    pub query: bool,
}

/// Which answers of a route are kept, for how long, and who may wait for whose.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub max_object_bytes: usize,
    pub default_ttl_seconds: f64,
    pub min_ttl_seconds: f64,
    pub heuristic_limit_seconds: f64,
    pub stale_while_revalidate_seconds: f64,
    pub stale_if_error_seconds: f64,
    pub collapse_wait_seconds: f64,
    pub cookies: bool,
    pub request_directives: bool,
    pub tags_header: String,
}

/// Which answers of a route are compressed, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// By the names of HTTP, the one liked best first.
    pub encodings: Vec<String>,
    /// `text/html`, `text/*`, `application/*+json`.
    pub types: Vec<String>,
    pub minimum_bytes: u64,
}

/// What an instance's load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Requests under way.
    LeastRequests,
    /// How long they will take.
    PeakEwma,
}

/// What instances speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    #[serde(rename = "h2c")]
    H2c,
    /// HTTP/2 over TLS, agreed on by ALPN.
    #[serde(rename = "h2")]
    H2,
}

impl Protocol {
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

/// How TLS is spoken with instances.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTls {
    /// Authorities that vouch for certificates, in PEM; without it, this machine's.
    pub ca_file: Option<String>,
    /// Whose certificate it must be; without it, the host of each instance's address.
    pub server_name: Option<String>,
    /// The gateway's own certificate and its key, in PEM: both or neither.
    pub certificate: Option<String>,
    pub key: Option<String>,
}

/// How instances are checked beside their answers to requests.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Empty where the health protocol of gRPC is spoken.
    pub path: String,
    /// The service that is asked for by that; empty for the whole server.
    pub grpc: Option<String>,
    pub interval_seconds: f64,
    pub timeout_seconds: f64,
    /// In a row, until an instance is out.
    pub failures: u32,
    /// In a row, until it is in again.
    pub successes: u32,
    /// What an answer must be; empty: a success.
    pub statuses: Vec<u16>,
}

/// How a service is asked, and how it is protected.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub protocol: Protocol,
    /// Without it, TLS is not spoken.
    pub tls: Option<ServiceTls>,
    /// At most, if it adapts.
    pub concurrency: usize,
    pub adaptive_concurrency: bool,
    pub least_concurrency: usize,
    /// 0 for no bound of its own.
    pub tenant_concurrency: usize,
    /// How many may wait for a place, and for how long.
    pub queue: usize,
    pub queue_timeout_seconds: f64,
    pub connect_timeout_seconds: f64,
    pub attempt_timeout_seconds: f64,
    /// As for an attempt, if nothing is said.
    pub idle_timeout_seconds: Option<f64>,
    /// How long a connection is kept without a request, and at all.
    pub connection_idle_seconds: f64,
    pub connection_age_seconds: f64,
    /// Without it as long as all attempts take.
    pub request_timeout_seconds: Option<f64>,
    pub attempts: u32,
    pub retry_budget: f64,
    pub hedge_after_seconds: Option<f64>,
    pub balance: Balance,
    pub slow_start_seconds: f64,
    pub panic_share: f64,
    /// Without it instances are known by their answers alone.
    pub health: Option<HealthCheck>,
    pub breaker_failures: u32,
    /// Without it failures in a row alone count.
    pub breaker_ratio: Option<f64>,
    pub breaker_window_seconds: f64,
    pub breaker_minimum: u32,
    pub breaker_probes: u32,
    pub breaker_open_seconds: f64,
    /// Connections that have gone over to another protocol, at once.
    pub tunnels: usize,
    /// Without a byte in either direction.
    pub tunnel_idle_seconds: f64,
}

impl Service {
    pub fn breaker(&self) -> breaker::Settings {
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        breaker::Settings {
            failures: self.breaker_failures,
            ratio: self.breaker_ratio.unwrap_or(f64::INFINITY),
            window_ns: nanoseconds(self.breaker_window_seconds),
            minimum: self.breaker_minimum,
            open_ns: nanoseconds(self.breaker_open_seconds),
            probes: self.breaker_probes.max(1),
        }
    }

    /// Whether the instances are treated the same in `other`, so that they can stay.
    pub fn same_endpoints(&self, other: &Self) -> bool {
        self.breaker() == other.breaker()
            && self.balance == other.balance
            && self.health == other.health
            && self.tls == other.tls
            && (self.health.is_none() || self.protocol == other.protocol)
    }
}
