//! A route as the gateway serves it, with its counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;

use crate::addresses::Addresses;
use crate::cache::{self, Cache};
use crate::compression::Compression;
use crate::config;
use crate::edge::Edge;
use crate::hook::Hook;
use crate::limit::Limit;
use crate::mirror::Mirror;
use crate::rewrite::Rewrite;
use crate::service::Upstream;
use crate::split::Split;

/// Upper bounds of the duration histogram, in microseconds.
pub const BUCKETS: [u64; 14] = [
    250,
    500,
    1_000,
    2_000,
    4_000,
    8_000,
    16_000,
    32_000,
    64_000,
    128_000,
    256_000,
    1_000_000,
    4_000_000,
    u64::MAX,
];

pub struct Route {
    pub config: config::Route,
    /// Allowed and denied networks, if configured.
    pub addresses: Option<Addresses>,
    pub limits: Vec<Arc<Limit>>,
    /// Whether any limit is strict.
    pub asks: bool,
    pub hooks: Vec<Arc<Hook>>,
    /// Whether any limit adds RateLimit fields to every answer.
    pub tells: bool,
    pub leads: Leads,
    /// The mirror, if configured.
    pub mirror: Option<Arc<Mirror>>,
    /// How requests are rewritten for the service, if configured.
    pub rewrite: Option<Arc<Rewrite>>,
    /// CORS, redirect and edits of answers, if configured.
    pub edge: Option<Box<Edge>>,
    pub compression: Option<Compression>,
    /// Counters of all routes with this path, in earlier configurations too.
    pub counts: Arc<Counts>,
}

/// Where a route leads.
pub enum Leads {
    /// A redirect route has no service.
    Nowhere,
    To(Target),
    Split(Box<Split>),
}

/// A service as used by a route.
pub struct Target {
    pub service: String,
    pub upstream: Arc<Upstream>,
    /// Per service of a split, so that cached answers of different services don't mix.
    pub cache: Option<Arc<Cache>>,
    /// Protocols that a client may upgrade to.
    pub upgrades: Vec<String>,
}

impl Route {
    /// The service that a request went to, chosen by `side` in a split; empty if it went to none.
    pub fn service(&self, side: Option<usize>) -> &str {
        match &self.leads {
            Leads::Nowhere => "",
            Leads::To(target) => &target.service,
            Leads::Split(split) => side.map_or("", |side| &split.sides[side].target.service),
        }
    }

    /// Whether identity, limits, hooks and address lists are the same as those of `other`.
    pub fn guards_like(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.config, &other.config);
        ours.identity == theirs.identity
            && (&ours.limits, &ours.hooks) == (&theirs.limits, &theirs.hooks)
            && (&ours.allow, &ours.deny) == (&theirs.allow, &theirs.deny)
    }

    /// Whether the two routes have a service in common.
    pub fn leads_like(&self, other: &Self) -> bool {
        let theirs = other.services();
        self.services().iter().any(|service| theirs.contains(service))
    }

    /// Count an answer, for its side of a split too.
    pub fn count(&self, side: Option<usize>, status: StatusCode, duration_us: u64, cache: cache::Outcome) {
        self.counts.add(status, duration_us);
        self.counts.cache.add(cache);
        if let (Leads::Split(split), Some(side)) = (&self.leads, side) {
            split.sides[side].counts.add(status, duration_us);
        }
    }
}

/// Outcomes of the requests of a path, or of those that went to one service.
#[derive(Default)]
pub struct Counts {
    /// Answers by class of status, 1xx to 5xx.
    pub answers: [AtomicU64; 5],
    pub durations: [AtomicU64; BUCKETS.len()],
    pub duration_sum_us: AtomicU64,
    pub cache: cache::Counts,
}

impl Counts {
    pub fn add(&self, status: StatusCode, duration_us: u64) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
        let bucket = BUCKETS.partition_point(|bound| *bound < duration_us);
        self.durations[bucket].fetch_add(1, Ordering::Relaxed);
        self.duration_sum_us.fetch_add(duration_us, Ordering::Relaxed);
    }
}
