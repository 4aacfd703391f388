//! Settings of services: timeouts, retries, breakers, concurrency.

use counterfoil_policy::breaker;
use serde::Deserialize;

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
