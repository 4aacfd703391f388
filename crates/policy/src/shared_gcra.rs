//! One limit over several nodes: each node decides at once by its own cells, and reports its admissions
//! afterwards, in batches, to a store shared by all nodes.
//!
//! **What is reported.** Admitting a request at time `a` changes a key's TAT by the map
//! `TAT -> max(TAT + interval, a + interval)`. Such maps compose to maps of the same form (the max-plus
//! algebra), so an [`Advance`] of two durations represents any number of admissions, whenever they were, and
//! the store can apply it to its TAT whatever other nodes did in between. Both durations are relative to the
//! moment of sending, and so is the answer: the store's debt (its TAT minus its own now). Clocks of different
//! machines are never compared.
//!
//! **How the answer is used.** The local TAT becomes the later of its current value and the store's value
//! plus what was admitted here meanwhile. It never becomes earlier, so an empty, lost or faulty store can at
//! worst leave a node as strict as it is alone, never more lenient.
//!
//! **The bound.** N nodes, `rate` and `burst`; an exchange takes at most D, and begins at most
//! `every` after the one before. Then over any span `t` all nodes together admit at most
//!
//! ```text
//! rate * t  +  burst  +  (N - 1) * burst  +  N * rate * W        W = every + 3 D
//! ```
//!
//! where everything after the first burst is overshoot, borrowed and then repaid. The argument:
//! 1. A node knows its own admissions at once, and what the store knew within `L = every + 2 D` of the first
//!    admission that it has not reported yet (an exchange may have just begun; then the next one carries it).
//!    So its own cell bounds what a node admits without having asked to `burst + rate * L`.
//! 2. Consider the store's debt at any moment, and the batches that led to it, backwards, as long as all are
//!    from different nodes. If the batch before them is from one of these nodes, that node knew the sum up to
//!    its first batch when it admitted its second, and admitted only because that sum was within the burst;
//!    the others in between are at most N - 1 batches. If there is no such batch, the debt began at nothing,
//!    with at most N batches, the first of which is within the burst. Either way the debt is at most
//!    `burst + (N - 1) * burst + N * rate * L`.
//! 3. The answer counts from the moment of sending, so that a node which is alone gets back exactly what it
//!    sent; it may be early by one way of the exchange, less than D.
//! 4. What all nodes admitted is the growth of the debt, plus the elapsed time times the rate. So a bound on
//!    the debt bounds the sum over any span, and the long-run rate is exact.
//!
//! **Without the store** each node enforces the limit alone: N times the rate. When the store is back, nodes
//! report what they admitted meanwhile, but not more than one burst and a second of it: no client should be
//! refused for an hour because the store was away for half of one. An exchange whose answer was lost may have
//! been counted; it is reported again, since a limit errs on the low side.
//!
//! **A strict limit** asks the store about each request before it passes, so the store's TAT alone decides,
//! and the bound is that of a single node. The store's answers are kept here as above, as a TAT that is never
//! later than the store's. So a request refused by local knowledge would also be refused by the store, and
//! needn't ask; and a node that loses the store continues from the store's last state.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Left;
use crate::gcra::{Decision, Gcra};

/// Shards bound the contention between threads; a power of two so that a mask picks one.
const SHARDS: usize = 16;
/// Unreported admissions are kept in full as long as exchanges take less than this; also added to the longest
/// debt of [`NODES`] bursts that the store keeps.
const SLACK_NS: u64 = 1_000_000_000;
/// The store keeps debts of up to this many bursts and forgives the rest. To exceed it, sixteen nodes would
/// have to spend a whole burst each within one exchange, or the store's clock would have to be set back.
const NODES: u64 = 16;

/// The effect of admissions on a TAT: `TAT -> max(TAT + by, at_least)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Advance {
    /// One interval per admission.
    pub by_ns: u64,
    /// The TAT if nothing was owed before: a time of the node's clock.
    pub at_least_ns: u64,
}

impl Advance {
    /// One admission at `now_ns`.
    #[must_use]
    pub fn admission(now_ns: u64, interval_ns: u64) -> Self {
        Self { by_ns: interval_ns, at_least_ns: now_ns + interval_ns }
    }

    /// Compose: first `self`, then `later`.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self {
            by_ns: self.by_ns.saturating_add(later.by_ns),
            at_least_ns: self.at_least_ns.saturating_add(later.by_ns).max(later.at_least_ns),
        }
    }

    /// The TAT after these admissions.
    #[must_use]
    pub fn apply(self, tat_ns: u64) -> u64 {
        tat_ns.saturating_add(self.by_ns).max(self.at_least_ns)
    }
}

type Untold = HashMap<Box<str>, Advance>;

/// This node's cells of a limit, and the admissions that aren't reported yet.
pub struct SharedGcra {
    gcra: Gcra,
    by_limit_ns: u64,
    capacity_per_shard: usize,
    hasher: RandomState,
    untold: Vec<Mutex<Untold>>,
}

impl SharedGcra {
    /// `rate` per second, `burst` at once, `capacity` keys in memory, of which a tenth may wait to be
    /// reported; keys beyond that are limited by this node alone.
    #[must_use]
    pub fn new(rate: f64, burst: u32, capacity: usize) -> Self {
        let gcra = Gcra::new(rate, burst, capacity);
        Self {
            by_limit_ns: gcra.burst_ns().saturating_add(SLACK_NS),
            gcra,
            capacity_per_shard: (capacity / 10 / SHARDS).max(1),
            hasher: RandomState::new(),
            untold: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Decide one request of `key` at `now_ns` by local knowledge.
    pub fn check(&self, key: &str, now_ns: u64) -> Decision {
        let decision = self.gcra.check(key, now_ns);
        if decision == Decision::Allowed {
            self.add(key, |untold| untold.then(Advance::admission(now_ns, self.gcra.interval_ns())));
        }
        decision
    }

    /// What `check` would decide, without counting the request.
    #[must_use]
    pub fn look(&self, key: &str, now_ns: u64) -> Decision {
        self.gcra.look(key, now_ns)
    }

    /// What `key` has left at `now_ns` by local knowledge.
    #[must_use]
    pub fn left(&self, key: &str, now_ns: u64) -> Left {
        self.gcra.left(key, now_ns)
    }

    /// Take the admissions since the last call, by key. Each must be passed back to `told` or `lost`.
    pub fn take(&self) -> Vec<(Box<str>, Advance)> {
        self.untold.iter().flat_map(|shard| std::mem::take(&mut *lock(shard))).collect()
    }

    /// The store has counted what was sent for `key` at `sent_ns`, and answered with its debt.
    pub fn told(&self, key: &str, sent_ns: u64, debt_ns: u64) {
        let meanwhile_ns = lock(self.shard(key)).get(key).map_or(0, |untold| untold.by_ns);
        self.gcra.raise(key, sent_ns.saturating_add(debt_ns).saturating_add(meanwhile_ns), sent_ns);
    }

    /// What was taken for `key` may not have reached the store.
    pub fn lost(&self, key: &str, taken: Advance) {
        self.add(key, |later| taken.then(later));
    }

    /// The time between two requests at the steady rate.
    #[must_use]
    pub fn interval_ns(&self) -> u64 {
        self.gcra.interval_ns()
    }

    /// How early a request may be.
    #[must_use]
    pub fn tolerance_ns(&self) -> u64 {
        self.gcra.tolerance_ns()
    }

    /// The longest debt that the store keeps for a key of this limit.
    #[must_use]
    pub fn debt_limit_ns(&self) -> u64 {
        self.gcra.burst_ns().saturating_mul(NODES).saturating_add(SLACK_NS)
    }

    /// Number of keys in memory.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.gcra.keys()
    }

    /// Number of keys waiting to be reported.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.untold.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, key: &str) -> &Mutex<Untold> {
        &self.untold[self.hasher.hash_one(key) as usize & (SHARDS - 1)]
    }

    fn add(&self, key: &str, compose: impl FnOnce(Advance) -> Advance) {
        let mut shard = lock(self.shard(key));
        if let Some(untold) = shard.get_mut(key) {
            *untold = self.bounded(compose(*untold));
        } else if shard.len() < self.capacity_per_shard {
            shard.insert(key.into(), self.bounded(compose(Advance::default())));
        }
    }

    fn bounded(&self, advance: Advance) -> Advance {
        Advance { by_ns: advance.by_ns.min(self.by_limit_ns), ..advance }
    }
}

fn lock(shard: &Mutex<Untold>) -> MutexGuard<'_, Untold> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
