//! Purges as times, not as searches.
//!
//! What is purged (an address, a tag) has a slot by its hash, which holds the time of its last
//! purge; a stored answer counts only if it was asked for after the last purges of its address and
//! of each of its tags. So a purge costs one write whatever is stored, reaches every tenant's
//! answers at once, and catches those that are on their way too: an answer that was asked for
//! before the purge is dead when it arrives. There is no index to keep in step with evictions.
//!
//! The price: what shares a slot is purged along with it. With `SLOTS` slots one purge ends one in
//! 65,536 of the other addresses, which then cost one more request each. Memory is given back by
//! eviction, not by the purge.

use std::sync::atomic::{AtomicU64, Ordering};

/// 1 MiB in all; a power of two so that a mask picks one.
const SLOTS: usize = 65_536;

/// The last time that something was purged, or 0. Both in one cache line.
#[derive(Default)]
struct Slot {
    hard: AtomicU64,
    soft: AtomicU64,
}

/// How a purge ends what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// It is never used again.
    Hard,
    /// It is stale: used while it is asked for again, or if that fails, as far as its answer
    /// allows that.
    Soft,
}

/// What became of a stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Stale since then, at the latest.
    StaleSince(u64),
    Gone,
}

/// Times of purges. Shared by threads without a lock.
pub struct Purges {
    slots: Box<[Slot]>,
    all: Slot,
}

impl Default for Purges {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| Slot::default()).collect(), all: Slot::default() }
    }
}

impl Purges {
    /// Purge at `now_ns` what has this hash.
    pub fn purge(&self, hash: u64, purge: Purge, now_ns: u64) {
        self.slot(hash).purge(purge, now_ns);
    }

    /// Purge at `now_ns` all that there is.
    pub fn purge_all(&self, purge: Purge, now_ns: u64) {
        self.all.purge(purge, now_ns);
    }

    /// What became of an answer with these hashes (of its address and its tags) that was asked for
    /// at `asked_ns`. One asked for in the very nanosecond of a purge is taken to be older.
    pub fn standing(&self, hashes: impl IntoIterator<Item = u64>, asked_ns: u64) -> Standing {
        let mut worst = self.all.standing(asked_ns);
        for hash in hashes {
            worst = match (worst, self.slot(hash).standing(asked_ns)) {
                (Standing::Gone, _) | (_, Standing::Gone) => return Standing::Gone,
                (Standing::StaleSince(left), Standing::StaleSince(right)) => {
                    Standing::StaleSince(left.min(right))
                }
                (Standing::Good, other) | (other, Standing::Good) => other,
            };
        }
        worst
    }

    fn slot(&self, hash: u64) -> &Slot {
        &self.slots[hash as usize & (SLOTS - 1)]
    }
}

impl Slot {
    fn purge(&self, purge: Purge, now_ns: u64) {
        let time = match purge {
            Purge::Hard => &self.hard,
            Purge::Soft => &self.soft,
        };
        time.fetch_max(now_ns.max(1), Ordering::AcqRel);
    }

    fn standing(&self, asked_ns: u64) -> Standing {
        let before =
            |time: &AtomicU64| Some(time.load(Ordering::Acquire)).filter(|at| *at >= asked_ns.max(1));
        if before(&self.hard).is_some() {
            return Standing::Gone;
        }
        before(&self.soft).map_or(Standing::Good, Standing::StaleSince)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_that_was_asked_for_before_a_purge_outlives_it_and_nothing_after_is_touched(
            purges in prop::collection::vec((0u64..4, any::<bool>(), 1u64..100), 0..12),
            hashes in prop::collection::vec(0u64..4, 1..4),
            asked in 1u64..100,
        ) {
            let times = Purges::default();
            for (hash, hard, at) in &purges {
                times.purge(*hash, if *hard { Purge::Hard } else { Purge::Soft }, *at);
            }
            let mine = |wanted: bool| {
                purges.iter().any(|(hash, hard, at)| *hard == wanted && hashes.contains(hash) && *at >= asked)
            };
            let standing = times.standing(hashes.iter().copied(), asked);
            prop_assert_eq!(standing == Standing::Gone, mine(true));
            prop_assert_eq!(standing == Standing::Good, !mine(true) && !mine(false));
        }
    }

    #[test]
    fn a_purge_of_everything_ends_what_has_any_hash() {
        let times = Purges::default();
        times.purge_all(Purge::Soft, 10);
        assert_eq!(times.standing([1, 2], 5), Standing::StaleSince(10));
        times.purge_all(Purge::Hard, 20);
        assert_eq!(times.standing([3], 15), Standing::Gone);
        assert_eq!(times.standing([3], 21), Standing::Good);
    }
}
