//! Purges as timestamps rather than searches.
//!
//! A stored answer is valid only if it was requested after the last purge of its URL and of each of its tags.
//! So a purge costs one write whatever is stored, reaches every tenant's answers at once, and covers answers
//! in flight: one requested before the purge is invalid when it arrives. There is no index to keep in step
//! with evictions; eviction frees the memory, not the purge.
//!
//! Purge times are kept in sets by hash, like the lines of a CPU cache: a set remembers the last `WAYS`
//! purges, and the time of the latest one that it has dropped. An older answer counts as purged, since its
//! purge may be among the dropped ones. So purges are exact as long as a set sees at most `WAYS` of them in
//! the life of an answer, which with `SETS` sets means some 50,000 different URLs and tags; beyond that too
//! much is purged, never too little.
//!
//! A purge is one word, so that threads share sets without a lock: 15 bits of the hash (another 14 choose the
//! set), one for the kind, and 48 for the time in microseconds (nine years).

use std::sync::atomic::{AtomicU64, Ordering};

/// A power of two so that a mask picks one; 1 MiB in all, since a set is a cache line.
const SETS: usize = 16_384;
const WAYS: usize = 7;
const NS_PER_US: u64 = 1_000;
const TIME: u64 = (1 << 48) - 1;
const SOFT: u64 = 1 << 48;
const TAG: u64 = !(TIME | SOFT);

/// Purges, 0 for none, and the time of the latest one dropped.
#[derive(Default)]
#[repr(align(64))]
struct Set {
    ways: [AtomicU64; WAYS],
    forgotten: AtomicU64,
}

/// The kind of a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// The answer is never used again.
    Hard,
    /// The answer becomes stale: it is used during revalidation, or if that fails, as far as the answer
    /// allows that.
    Soft,
}

/// The state of a stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Stale since this time.
    StaleSince(u64),
    Gone,
}

/// Times of purges. Shared by threads without a lock.
pub struct Purges {
    sets: Box<[Set]>,
    all_hard: AtomicU64,
    all_soft: AtomicU64,
}

impl Default for Purges {
    fn default() -> Self {
        let sets = (0..SETS).map(|_| Set::default()).collect();
        Self { sets, all_hard: AtomicU64::new(0), all_soft: AtomicU64::new(0) }
    }
}

impl Purges {
    /// Purge answers with this hash at `now_ns`.
    pub fn purge(&self, hash: u64, purge: Purge, now_ns: u64) {
        let kind = if purge == Purge::Soft { SOFT } else { 0 };
        self.set(hash).add((hash & TAG) | kind | microseconds(now_ns));
    }

    /// Purge all answers at `now_ns`.
    pub fn purge_all(&self, purge: Purge, now_ns: u64) {
        let time = if purge == Purge::Soft { &self.all_soft } else { &self.all_hard };
        time.fetch_max(microseconds(now_ns), Ordering::AcqRel);
    }

    /// The state of an answer with these hashes (of its URL and its tags) that was requested at `asked_ns`.
    /// An answer requested in the same microsecond as a purge counts as older.
    pub fn standing(&self, hashes: impl IntoIterator<Item = u64>, asked_ns: u64) -> Standing {
        let asked_us = microseconds(asked_ns);
        if self.all_hard.load(Ordering::Acquire) >= asked_us {
            return Standing::Gone;
        }
        let mut stale_us = Some(self.all_soft.load(Ordering::Acquire)).filter(|at| *at >= asked_us);
        for hash in hashes {
            let set = self.set(hash);
            for way in &set.ways {
                let word = way.load(Ordering::Acquire);
                if word & TAG != hash & TAG || word & TIME < asked_us {
                    continue;
                }
                if word & SOFT == 0 {
                    return Standing::Gone;
                }
                stale_us = Some(stale_us.map_or(word & TIME, |known| known.min(word & TIME)));
            }
            // Checked last: a purge dropped meanwhile has stored its time here before.
            if set.forgotten.load(Ordering::Acquire) >= asked_us {
                return Standing::Gone;
            }
        }
        stale_us.map_or(Standing::Good, |us| Standing::StaleSince(us * NS_PER_US))
    }

    fn set(&self, hash: u64) -> &Set {
        &self.sets[hash as usize & (SETS - 1)]
    }
}

impl Set {
    /// Add a purge: it replaces an earlier one of the same hash and kind, or the earliest one.
    fn add(&self, word: u64) {
        loop {
            let words = self.ways.each_ref().map(|way| way.load(Ordering::Acquire));
            let same = |each: &u64| *each != 0 && *each & !TIME == word & !TIME;
            if let Some(place) = words.iter().position(same) {
                // All other bits being equal, the larger word is the later one. If another purge has replaced
                // the word meanwhile, retry.
                let known = words[place];
                if self.replace(place, known, known.max(word)) {
                    return;
                }
                continue;
            }
            let time = |place: &usize| words[*place] & TIME;
            let earliest = (0..WAYS).min_by_key(time).unwrap_or(0);
            self.forgotten.fetch_max(words[earliest] & TIME, Ordering::AcqRel);
            if self.replace(earliest, words[earliest], word) {
                return;
            }
        }
    }

    fn replace(&self, place: usize, known: u64, word: u64) -> bool {
        self.ways[place].compare_exchange(known, word, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// At least 1, since 0 means no purge.
fn microseconds(ns: u64) -> u64 {
    (ns / NS_PER_US).clamp(1, TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hashes that share a set, and hashes that don't.
    fn hash(number: u64) -> u64 {
        (number << 49) | (number % 2)
    }

    fn purge(hard: bool) -> Purge {
        if hard { Purge::Hard } else { Purge::Soft }
    }

    proptest! {
        #[test]
        fn what_is_older_than_its_purge_is_gone_and_as_long_as_a_set_remembers_nothing_else_is(
            purges in prop::collection::vec((0u64..40, any::<bool>(), 1u64..200), 0..40),
            mine in prop::collection::vec(0u64..40, 1..4),
            asked in 1u64..200,
        ) {
            let times = Purges::default();
            for (number, hard, at) in &purges {
                times.purge(hash(*number), purge(*hard), *at * NS_PER_US);
            }
            let purged = |wanted: bool| {
                purges.iter().any(|(each, hard, at)| *hard == wanted && mine.contains(each) && *at >= asked)
            };
            let standing = times.standing(mine.iter().map(|each| hash(*each)), asked * NS_PER_US);
            if purged(true) { prop_assert_eq!(standing, Standing::Gone); }
            if purged(false) { prop_assert_ne!(standing, Standing::Good); }
            let mut known: Vec<_> = purges.iter().map(|(each, hard, _)| (*each, *hard)).collect();
            known.sort_unstable();
            known.dedup();
            let in_set = |parity: u64| known.iter().filter(|(each, _)| each % 2 == parity).count();
            if in_set(0) <= WAYS && in_set(1) <= WAYS {
                prop_assert_eq!(standing == Standing::Gone, purged(true));
                prop_assert_eq!(standing == Standing::Good, !purged(true) && !purged(false));
            }
        }
    }

    #[test]
    fn a_set_that_forgets_errs_on_the_side_of_purging() {
        let times = Purges::default();
        for number in 0..20u64 {
            times.purge(hash(2 * number), Purge::Hard, (number + 1) * 10 * NS_PER_US);
        }
        assert_eq!(times.standing([hash(100)], 130 * NS_PER_US), Standing::Gone);
        assert_eq!(times.standing([hash(100)], 131 * NS_PER_US), Standing::Good);
        assert_eq!(times.standing([hash(101)], NS_PER_US), Standing::Good, "another set");
    }

    #[test]
    fn a_purge_of_everything_ends_what_has_any_hash() {
        let times = Purges::default();
        times.purge_all(Purge::Soft, 10_000);
        assert_eq!(times.standing([1, 2], 5_000), Standing::StaleSince(10_000));
        times.purge_all(Purge::Hard, 20_000);
        assert_eq!(times.standing([3], 15_000), Standing::Gone);
        assert_eq!(times.standing([3], 21_000), Standing::Good);
    }

    #[test]
    fn purges_of_many_threads_are_all_remembered() {
        let times = Purges::default();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let times = &times;
                scope.spawn(move || {
                    for at in 1..2_000 {
                        times.purge(hash(2 * (4 * (at % 3) + thread)), Purge::Hard, at * NS_PER_US);
                    }
                });
            }
        });
        for number in 0..12 {
            assert_eq!(times.standing([hash(2 * number)], 1_000 * NS_PER_US), Standing::Gone);
        }
    }
}
