//! Storage of the cache: bounded in bytes, shared by all workers.
//!
//! moka evicts by TinyLFU: a newcomer takes the place of what is there only if it was asked for
//! more often, so a scan of addresses that are asked for once leaves the hot ones where they are.
//! An entry holds the variants of one address (for everybody, or for one tenant), newest first. A
//! hit takes no lock, and copies no body.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_policy::caching::purges::{Purges, Standing};
use moka::notification::RemovalCause;
use moka::ops::compute::Op;

use crate::cache::flights::Flights;
use crate::cache::request::{Key, Presented};
use crate::cache::stored::Stored;

/// Variants of one address; the oldest goes when there are more. A service that varies by more than
/// a handful of values (`Vary: User-Agent`) gains nothing by a cache anyway.
const VARIANTS: usize = 16;
/// For how long nobody waits for an answer where the last was not to be stored. Long enough for a
/// burst of requests, short enough that an answer that may be stored again is shared again soon;
/// one that is stored meanwhile ends it at once.
const PASS_NS: u64 = 10_000_000_000;
/// What an entry takes without its variants.
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
    /// Until when nobody waits for another's answer.
    pass_until_ns: u64,
}

/// What the store has for a request.
#[derive(Default)]
pub struct Found {
    /// The answer, and since when it is stale by a purge.
    pub stored: Option<(Arc<Stored>, Option<u64>)>,
    /// Without one: what the request has in the fields that the newest variant varies by.
    pub selecting: Option<Box<[u8]>>,
    /// Whether it is known that there is nothing to wait for.
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

    /// The answer for a request: its tenant's own, or one for everybody.
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

    /// An answer that a request may get, and since when it is stale by a purge; nothing if it is
    /// another variant, or purged for good.
    pub fn good(&self, stored: &Arc<Stored>, asked: Presented<'_>) -> Option<(Arc<Stored>, Option<u64>)> {
        let standing = self.purges.standing(stored.hashes.iter().copied(), stored.asked_ns);
        let purged_ns = match standing {
            Standing::Gone => return None,
            Standing::Good => None,
            Standing::StaleSince(since_ns) => Some(since_ns),
        };
        stored.is_for(asked).then(|| (Arc::clone(stored), purged_ns))
    }

    /// Keep an answer, in place of an older one of the same variant.
    pub fn put(&self, key: &[u8], stored: &Arc<Stored>) {
        self.entries.entry(key.into()).and_upsert_with(|entry| {
            let before = entry.map(|entry| entry.into_value()).unwrap_or_default();
            let same = |each: &Stored| each.selecting == stored.selecting && each.vary == stored.vary;
            if before.variants.iter().any(|each| same(each) && each.asked_ns > stored.asked_ns) {
                return before; // an answer that was asked for later has come sooner
            }
            let others = before.variants.iter().filter(|each| !same(each));
            let variants = std::iter::once(stored).chain(others).take(VARIANTS).cloned().collect();
            Arc::new(Entry { variants, pass_until_ns: 0 })
        });
        // Evict now, and not after as many answers as moka would let wait: the bound is in bytes.
        self.entries.run_pending_tasks();
    }

    /// Forget an answer that the service has taken back.
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

    /// Remember that what is here is not to be stored, so that nobody waits for it.
    pub fn mark_pass(&self, key: &[u8], now_ns: u64) {
        self.entries.entry(key.into()).and_upsert_with(|entry| {
            let variants = entry.map(|entry| entry.into_value().variants.clone()).unwrap_or_default();
            Arc::new(Entry { variants, pass_until_ns: now_ns + PASS_NS })
        });
    }

    /// By which an address is purged, whoever its answers are for: path and query.
    pub fn hash_of_target(&self, target: &str) -> u64 {
        self.hasher.hash_one((0u8, target))
    }

    pub fn hash_of_tag(&self, tag: &str) -> u64 {
        self.hasher.hash_one((1u8, tag))
    }

    /// Entries, and the bytes that they take.
    pub fn size(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.entry_count(), self.entries.weighted_size())
    }

    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }
}
