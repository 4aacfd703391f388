//! Counters of cache outcomes.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::metrics::{Kind, Page};
use crate::snapshot::Snapshot;

/// Where a response came from, for the access log and the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The route has no cache.
    #[default]
    Off,
    /// Stored and fresh.
    Hit,
    /// Stored and stale, as the response or the client allows.
    Stale,
    /// Stored, because the service failed.
    StaleIfError,
    /// Stored, after the service has confirmed it.
    Revalidated,
    /// Another request fetched it.
    Collapsed,
    /// From the service.
    Miss,
    /// From the service; the cache does not apply to the request.
    Bypass,
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Hit,
        Self::Stale,
        Self::StaleIfError,
        Self::Revalidated,
        Self::Collapsed,
        Self::Miss,
        Self::Bypass,
    ];

    /// The name in the access log and in labels; empty for `Off`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "",
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::StaleIfError => "stale_if_error",
            Self::Revalidated => "revalidated",
            Self::Collapsed => "collapsed",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// Requests of one path by outcome, in the order of `Outcome`.
#[derive(Default)]
pub struct Counts([AtomicU64; 8]);

impl Counts {
    pub fn add(&self, outcome: Outcome) {
        if outcome != Outcome::Off {
            self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}

/// Counters by path, the size of the store, and the share of requests that did not reach the service; null if
/// no route has a cache.
pub fn state(snapshot: &Snapshot) -> Value {
    let Some(store) = &snapshot.cache else { return Value::Null };
    let (entries, bytes) = store.size();
    let sum = |outcomes: &[Outcome]| -> u64 {
        let each = |outcome: Outcome| snapshot.counts.values().map(move |counts| counts.cache.of(outcome));
        outcomes.iter().copied().flat_map(each).sum()
    };
    let all = sum(&Outcome::ALL);
    let spared = sum(&[Outcome::Hit, Outcome::Stale, Outcome::Collapsed]);
    let routes: serde_json::Map<_, _> = cached(snapshot)
        .map(|path| {
            let counts = snapshot.counts.get(path);
            let of = |outcome| counts.map_or(0, |counts| counts.cache.of(outcome));
            let each = Outcome::ALL.map(|outcome| (outcome.name().to_owned(), Value::from(of(outcome))));
            (path.to_owned(), Value::Object(each.into_iter().collect()))
        })
        .collect();
    json!({
        "entries": entries,
        "bytes": bytes,
        "capacity_bytes": store.capacity_bytes,
        "evictions": store.evictions(),
        "hit_rate": if all == 0 { 0.0 } else { spared as f64 / all as f64 },
        "routes": routes,
    })
}

/// The same in the Prometheus text format. Labels are the paths of routes and the outcomes.
pub fn metrics(page: &mut Page, snapshot: &Snapshot) {
    let Some(store) = &snapshot.cache else { return };
    let (entries, bytes) = store.size();
    page.head("cache_requests", "_total", "counter", "Requests to routes with a cache, by outcome.");
    for path in cached(snapshot) {
        for outcome in Outcome::ALL {
            let count = snapshot.counts.get(path).map_or(0, |counts| counts.cache.of(outcome));
            page.sample("cache_requests", "_total", &[("route", path), ("outcome", outcome.name())], count);
        }
    }
    for (name, kind, help, value) in [
        ("cache_entries", Kind::Gauge, "Answers that are stored.", entries),
        ("cache_bytes", Kind::Gauge, "What they take.", bytes),
        ("cache_capacity_bytes", Kind::Gauge, "What they may take.", store.capacity_bytes),
        ("cache_evictions", Kind::Counter, "Answers that made room for others.", store.evictions()),
    ] {
        page.family(name, kind, help, [(&[][..], value)]);
    }
}

/// The distinct paths of routes that have a cache.
fn cached(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    let has_cache = |path: &str| {
        snapshot.routes.iter().any(|route| route.config.path == path && route.config.cache.is_some())
    };
    snapshot.counts.keys().map(String::as_str).filter(move |path| has_cache(path))
}
