//! Storage of the cache: bounded in bytes, shared by all workers.
//!
//! moka evicts by TinyLFU: a new entry replaces an old one only if it was requested more often, so a scan
//! over URLs that are requested once doesn't evict the hot ones. An entry holds the variants of one URL (for
//! everybody, or for one tenant), newest first. A hit takes no lock and copies no body.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_policy::caching::purges::{Purges, Standing};
use moka::notification::RemovalCause;
use moka::ops::compute::Op;

use crate::cache::flights::Flights;
use crate::cache::request::{Key, Presented};
use crate::cache::stored::Stored;

/// Variants per entry; the oldest is dropped when there are more. A response that varies by many values
/// (`Vary: User-Agent`) gains nothing from a cache anyway.
const VARIANTS: usize = 16;
/// How long requests don't wait for each other after a response that was not storable. Long enough for a
/// burst of requests, short enough that responses are soon shared again if they become storable; storing one
/// ends it at once.
const PASS_NS: u64 = 10_000_000_000;
/// The memory of an entry without its variants, in bytes.
const ENTRY_OVERHEAD: usize = 256;

pub struct Store {
    pub flights: Flights,
    pub purges: Purges,
    pub capacity_bytes: u64,
    entries: moka::sync::Cache<Key, Arc<Entry>>,
    evictions: Arc<AtomicU64>,
    hasher: RandomState,
}

#[derive(Default)]
struct Entry {
    variants: Vec<Arc<Stored>>,
    /// Until when requests don't wait for each other.
    pass_until_ns: u64,
}

/// The result of a lookup.
#[derive(Default)]
pub struct Found {
    /// The response, and since when it is stale because of a soft purge.
    pub stored: Option<(Arc<Stored>, Option<u64>)>,
    /// If there is none: the request's values of the fields that the newest variant varies by.
    pub selecting: Option<Box<[u8]>>,
    /// Whether requests should not wait for each other.
    pub pass: bool,
}

impl Store {
    pub fn new(capacity_bytes: u64) -> Self {
        let evictions = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&evictions);
        let entries = moka::sync::Cache::builder()
            .max_capacity(capacity_bytes)
            .weigher(|key: &Key, entry: &Arc<Entry>| {
                let variants: usize = entry.variants.iter().map(|each| each.weight()).sum();
                u32::try_from(ENTRY_OVERHEAD + key.len() + variants).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self {
            flights: Flights::default(),
            purges: Purges::default(),
            capacity_bytes,
            entries,
            evictions,
            hasher: RandomState::new(),
        }
    }

    /// Look up the response to a request: its tenant's, or one for everybody.
    pub fn find(&self, asked: Presented<'_>, now_ns: u64) -> Found {
        let (mut pass, mut selecting) = (false, None);
        for key in asked.wanted.tenant_key.iter().chain([&asked.wanted.open_key]) {
            let Some(entry) = self.entries.get(key) else { continue };
            pass |= now_ns < entry.pass_until_ns;
            if let Some(found) = entry.variants.iter().find_map(|each| self.good(each, asked)) {
                return Found { stored: Some(found), selecting: None, pass };
            }
            let newest = || entry.variants.first().map(|each| asked.selecting(&each.vary));
            selecting = selecting.or_else(newest);
        }
        Found { stored: None, selecting, pass }
    }

    /// The response if it matches the request, and since when it is stale because of a soft purge; `None` if
    /// it is another variant or was purged.
    pub fn good(&self, stored: &Arc<Stored>, asked: Presented<'_>) -> Option<(Arc<Stored>, Option<u64>)> {
        let standing = self.purges.standing(stored.hashes.iter().copied(), stored.asked_ns);
        let purged_ns = match standing {
            Standing::Gone => return None,
            Standing::Good => None,
            Standing::StaleSince(since_ns) => Some(since_ns),
        };
        stored.is_for(asked).then(|| (Arc::clone(stored), purged_ns))
    }

    /// Store a response, replacing an older one of the same variant.
    pub fn put(&self, key: &[u8], stored: &Arc<Stored>) {
        self.entries.entry(key.into()).and_upsert_with(|entry| {
            let before = entry.map(|entry| entry.into_value()).unwrap_or_default();
            let same = |each: &Stored| each.selecting == stored.selecting && each.vary == stored.vary;
            if before.variants.iter().any(|each| same(each) && each.asked_ns > stored.asked_ns) {
                return before; // the response to a later request has arrived first
            }
            let others = before.variants.iter().filter(|each| !same(each));
            let variants = std::iter::once(stored).chain(others).take(VARIANTS).cloned().collect();
            Arc::new(Entry { variants, pass_until_ns: 0 })
        });
        // Evict now instead of in moka's batches: the bound is in bytes.
        self.entries.run_pending_tasks();
    }

    /// Drop a response that is outdated.
    pub fn remove(&self, key: &[u8], stored: &Stored) {
        self.entries.entry(key.into()).and_compute_with(|entry| {
            let Some(before) = entry.map(|entry| entry.into_value()) else { return Op::Nop };
            let other = |each: &&Arc<Stored>| each.selecting != stored.selecting || each.vary != stored.vary;
            let variants: Vec<_> = before.variants.iter().filter(other).cloned().collect();
            if variants.is_empty() {
                return Op::Remove;
            }
            Op::Put(Arc::new(Entry { variants, pass_until_ns: before.pass_until_ns }))
        });
    }

    /// Remember that the response was not storable, so that requests don't wait for each other.
    pub fn mark_pass(&self, key: &[u8], now_ns: u64) {
        self.entries.entry(key.into()).and_upsert_with(|entry| {
            let variants = entry.map(|entry| entry.into_value().variants.clone()).unwrap_or_default();
            Arc::new(Entry { variants, pass_until_ns: now_ns + PASS_NS })
        });
    }

    /// The hash by which path and query are purged, for all tenants.
    pub fn hash_of_target(&self, target: &str) -> u64 {
        self.hasher.hash_one((0u8, target))
    }

    pub fn hash_of_tag(&self, tag: &str) -> u64 {
        self.hasher.hash_one((1u8, tag))
    }

    /// The number of entries and their size in bytes.
    pub fn size(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.entry_count(), self.entries.weighted_size())
    }

    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }
}
