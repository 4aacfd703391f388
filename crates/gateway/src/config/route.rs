//! Settings of routes.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::config::limits::LimitKey;

/// A hook: processes that decide about requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    pub addresses: Vec<String>,
    pub deadline_ms: u64,
    /// The maximum number of requests waiting for a decision.
    pub queue: usize,
    pub failure: OnFailure,
}

/// What happens to a request if a hook fails.
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
    /// Host names; `*.` before one matches all names below it. Empty: any.
    pub hosts: Vec<String>,
    /// Required values of headers.
    pub headers: HashMap<String, String>,
    /// Networks (CIDR) that are allowed (all if empty), and networks that are denied.
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    /// Empty if `split` or `redirect` is set.
    pub service: String,
    pub split: Option<Split>,
    pub mirror: Option<Mirror>,
    pub identity: bool,
    pub limits: Vec<String>,
    pub hooks: Vec<String>,
    /// Overrides the gateway's limit.
    pub request_body_limit: Option<u64>,
    /// Protocols that a connection may be upgraded to.
    pub upgrades: Vec<String>,
    /// Whether requests with safe methods are forwarded before the handshake is complete.
    pub early_data: bool,
    /// Whether the service's early hints (103) are forwarded.
    pub early_hints: bool,
    /// Whether gRPC-Web is translated to gRPC.
    pub grpc_web: bool,
    pub cache: Option<Cache>,
    pub cors: Option<Cors>,
    pub rewrite: Option<Rewrite>,
    pub request_headers: Option<HeaderEdits>,
    pub response_headers: Option<HeaderEdits>,
    pub redirect: Option<Redirect>,
    pub compression: Option<Compression>,
}

/// Services that share a route's requests, and how a request is assigned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    pub weights: BTreeMap<String, u32>,
    /// Requests with the same key go to the same service. If not set, each request is assigned at random.
    pub by: Option<LimitKey>,
    /// A header by which clients can select a service.
    pub header: Option<String>,
}

/// A service that gets copies of some of the requests.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub service: String,
    pub percent: f64,
    /// The maximum number of copies under way.
    pub concurrency: usize,
}

/// Which origins may send requests and read the responses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    pub origins: Vec<String>,
    /// Empty: the route's methods.
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub exposed_headers: Vec<String>,
    pub credentials: bool,
    pub max_age_seconds: u32,
}

/// A prefix of the path, and its replacement.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    pub prefix: String,
    pub to: String,
}

/// Edits of headers: removals first, then replacements, then additions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    pub remove: Vec<String>,
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
}

/// A redirect in place of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    pub status: u16,
    /// Empty: as requested.
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub prefix: String,
    /// The replacement of `prefix`.
    pub to: String,
    pub query: bool,
}

/// Which responses of a route are cached, for how long, and how misses are collapsed.
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

/// Which responses of a route are compressed, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// HTTP content codings, in order of preference.
    pub encodings: Vec<String>,
    /// Such as `text/html`, `text/*` or `application/*+json`.
    pub types: Vec<String>,
    pub minimum_bytes: u64,
}
