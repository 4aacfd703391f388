//! Settings of routes.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::config::limits::LimitKey;

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
