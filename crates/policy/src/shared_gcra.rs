//! One limit over several nodes: each decides by its own cells at once, and tells a store that all
//! of them share what it admitted, in batches, afterwards.
//!
//! **What is told.** Admitting a request at time `a` changes a key's TAT by the map
//! `TAT -> max(TAT + interval, a + interval)`. Such maps compose to maps of the same kind (the
//! max-plus algebra), so an [`Advance`] of two durations says all that matters of any number of
//! admissions, whenever they were, and the store applies it to its TAT whatever other nodes did
//! in between. Both travel as durations relative to the moment of sending, and so does the answer:
//! the store's debt (its TAT minus its own now). No node's clock is compared with another clock.
//!
//! **What is done with the answer.** The local TAT becomes the later one of what it is and what
//! the store says plus what was admitted here meanwhile. It never becomes earlier, so a store that
//! is empty, lost or lying can only make a node as strict as it is alone, never more lenient.
//!
//! **The bound.** N nodes, `rate` and `burst`; an exchange takes at most D, and begins at most
//! `every` after the one before. Then over any span `t` all nodes together admit at most
//!
//! ```text
//! rate * t  +  burst  +  (N - 1) * burst  +  N * rate * W        W = every + 3 D
//! ```
//!
//! where all after the first burst is the overshoot, borrowed and then repaid. The argument:
//! 1. A node knows of its own admissions at once, and of what the store knew within
//!    `L = every + 2 D` of the first admission that it has not told yet (an exchange may have just
//!    begun, then the next one carries it). So what a node admits without having asked is at most
//!    `burst + rate * L`: its own cell sees to that.
//! 2. Look at the store's debt at any moment, and back from there at the batches that led to it,
//!    as far as all are from different nodes. If the one before them is from a node that comes
//!    again, that node knew the sum up to its first batch when it admitted its second, and admitted
//!    only because that was within the burst; the others in between are at most N - 1 batches. If
//!    there is none, the debt began at nothing, with at most N batches, the first of which is
//!    within the burst. Either way the debt is at most `burst + (N - 1) * burst + N * rate * L`.
//! 3. The answer is counted from the moment of sending, so that a node which is alone gets back
//!    exactly what it sent; it may be early by one way of the exchange, less than D.
//! 4. What all nodes admitted is what the debt grew by, plus the time that has passed, times the
//!    rate. So a debt that is bounded bounds the sum over any span, and the long-run rate is exact.
//!
//! **Without the store** each node is a limit of its own: N times the rate. What was admitted
//! meanwhile is told when the store is back, but not more of it than one burst and a second:
//! nobody should be refused for an hour because the store was away for half of one. An exchange
//! whose answer was lost may have been counted; it is told again, since a limit errs towards less.
//!
//! **A strict limit** asks the store about each request before it passes, so the store's TAT alone
//! decides, and the bound is that of a single node. What the store then says is kept here as above:
//! a TAT that is never later than the store's. So who is refused by what is known here would be
//! refused there, and need not ask; and a node that loses the store goes on from where the store was.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Left;
use crate::gcra::{Decision, Gcra};

/// As in `gcra`.
const SHARDS: usize = 16;
/// What is not told yet is told whole as long as exchanges take less than this, and a debt in the
/// store can be longer than [`NODES`] bursts by as much.
const SLACK_NS: u64 = 1_000_000_000;
/// Debts of as many bursts are kept by the store; what is beyond is forgiven. Sixteen nodes would
/// have to spend a whole burst each in one exchange, or the store's clock be set back.
const NODES: u64 = 16;

/// What admissions do to a TAT: `TAT -> max(TAT + by, at_least)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Advance {
    /// One interval for each admission.
    pub by_ns: u64,
    /// Where the TAT stands if nothing was owed before: a time of the node's clock.
    pub at_least_ns: u64,
}

impl Advance {
    /// One admission at `now_ns`.
    #[must_use]
    pub fn admission(now_ns: u64, interval_ns: u64) -> Self {
        Self { by_ns: interval_ns, at_least_ns: now_ns + interval_ns }
    }

    /// First `self`, then `later`.
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

/// A limit's cells of this node, and what the other nodes have not been told yet.
pub struct SharedGcra {
    gcra: Gcra,
    by_limit_ns: u64,
    capacity_per_shard: usize,
    hasher: RandomState,
    untold: Vec<Mutex<Untold>>,
}

impl SharedGcra {
    /// `rate` per second, `burst` at once, `capacity` keys in memory of which a tenth may wait to
    /// be told; where more would have to wait, those are limited by this node alone.
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

    /// Decide one request of `key` at `now_ns`, by what is known here.
    pub fn check(&self, key: &str, now_ns: u64) -> Decision {
        let decision = self.gcra.check(key, now_ns);
        if decision == Decision::Allowed {
            self.add(key, |untold| untold.then(Advance::admission(now_ns, self.gcra.interval_ns())));
        }
        decision
    }

    /// Whether one request of `key` would pass at `now_ns`, by what is known here; it isn't counted.
    #[must_use]
    pub fn look(&self, key: &str, now_ns: u64) -> Decision {
        self.gcra.look(key, now_ns)
    }

    /// What `key` has left at `now_ns`, by what is known here.
    #[must_use]
    pub fn left(&self, key: &str, now_ns: u64) -> Left {
        self.gcra.left(key, now_ns)
    }

    /// What was admitted since the last call, by key. Each must come back by `told` or `lost`.
    pub fn take(&self) -> Vec<(Box<str>, Advance)> {
        self.untold.iter().flat_map(|shard| std::mem::take(&mut *lock(shard))).collect()
    }

    /// The store knows what was sent of `key` at `sent_ns`, and the key owes `debt_ns` there.
    pub fn told(&self, key: &str, sent_ns: u64, debt_ns: u64) {
        let meanwhile_ns = lock(self.shard(key)).get(key).map_or(0, |untold| untold.by_ns);
        self.gcra.raise(key, sent_ns.saturating_add(debt_ns).saturating_add(meanwhile_ns), sent_ns);
    }

    /// What was taken of `key` may not have reached the store.
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

    /// How many keys are remembered.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.gcra.keys()
    }

    /// How many keys wait to be told.
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
