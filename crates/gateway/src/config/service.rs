//! Settings of services: timeouts, retries, breakers, concurrency.

use counterfoil_policy::breaker;
use serde::Deserialize;

/// How the load of an instance is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// By the number of requests under way.
    LeastRequests,
    /// By the expected latency.
    PeakEwma,
}

/// The protocol that instances speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    #[serde(rename = "h2c")]
    H2c,
    /// HTTP/2 over TLS, negotiated by ALPN.
    #[serde(rename = "h2")]
    H2,
}

impl Protocol {
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

/// TLS with instances.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTls {
    /// Trusted authorities in PEM; the system's if not set.
    pub ca_file: Option<String>,
    /// The name that the certificate must be valid for; if not set, the host of each instance's address.
    pub server_name: Option<String>,
    /// The gateway's client certificate and its key, in PEM: both or neither.
    pub certificate: Option<String>,
    pub key: Option<String>,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Empty if `grpc` is set.
    pub path: String,
    /// The service name in gRPC health checks; empty for the whole server.
    pub grpc: Option<String>,
    pub interval_seconds: f64,
    pub timeout_seconds: f64,
    /// Consecutive failures before an instance is taken out.
    pub failures: u32,
    /// Consecutive successes before it is put back.
    pub successes: u32,
    /// Statuses that count as success; empty: any 2xx.
    pub statuses: Vec<u16>,
}

/// How requests are sent to a service, and how it is protected.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub protocol: Protocol,
    /// If not set, TLS is not used.
    pub tls: Option<ServiceTls>,
    /// The limit; with adaptive concurrency, its maximum.
    pub concurrency: usize,
    pub adaptive_concurrency: bool,
    pub least_concurrency: usize,
    /// 0 for no limit per tenant.
    pub tenant_concurrency: usize,
    /// How many requests may wait for a slot, and for how long.
    pub queue: usize,
    pub queue_timeout_seconds: f64,
    pub connect_timeout_seconds: f64,
    pub attempt_timeout_seconds: f64,
    /// Defaults to the attempt timeout.
    pub idle_timeout_seconds: Option<f64>,
    /// The idle timeout and the maximum age of connections.
    pub connection_idle_seconds: f64,
    pub connection_age_seconds: f64,
    /// If not set, the time of all attempts.
    pub request_timeout_seconds: Option<f64>,
    pub attempts: u32,
    pub retry_budget: f64,
    pub hedge_after_seconds: Option<f64>,
    pub balance: Balance,
    pub slow_start_seconds: f64,
    pub panic_share: f64,
    /// If not set, only responses to requests determine an instance's health.
    pub health: Option<HealthCheck>,
    pub breaker_failures: u32,
    /// If not set, only consecutive failures count.
    pub breaker_ratio: Option<f64>,
    pub breaker_window_seconds: f64,
    pub breaker_minimum: u32,
    pub breaker_probes: u32,
    pub breaker_open_seconds: f64,
    /// The maximum number of upgraded connections.
    pub tunnels: usize,
    /// The timeout of a tunnel without traffic in either direction.
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

    /// Whether `other` treats instances in the same way, so that their state can be kept.
    pub fn same_endpoints(&self, other: &Self) -> bool {
        self.breaker() == other.breaker()
            && self.balance == other.balance
            && self.health == other.health
            && self.tls == other.tls
            && (self.health.is_none() || self.protocol == other.protocol)
    }
}
