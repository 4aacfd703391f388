//! One timestamp per key for many keys, in bounded memory; lookups of known keys take no lock.
//!
//! A table of cells in buckets of eight. A cell is two words: the hash of a key, and a time that only grows
//! while the cell belongs to that key. A key may be in either of two buckets, and is inserted into the
//! emptier one, so that no key is refused before seven cells of ten are taken (Azar et al., "Balanced
//! allocations", 1994).
//!
//! **Keys are hashes** of 64 bits, keyed by a secret of the process. Two keys collide with a probability of 1
//! in 2^64 per pair, and an attacker can't search for such a pair.
//!
//! **Why no update is lost or charged to another key.** A cell whose time has passed owes nothing and may be
//! reused. An update reads the time, then the key, then swaps the time if it is unchanged. A takeover first
//! swaps the time for [`TAKEN`], then writes the key, then the new time, which is later than the old one. So
//! a time read before the takeover never recurs, and the swap fails; a time read after it comes with the new
//! key. Insertions with the same hash are serialized (a lock per stripe) and look up the key again, so no key
//! has two cells. `tests/interleavings.rs` explores all of this with loom.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// Cells per bucket: two cache lines of 64 bytes.
#[cfg(not(loom))]
const BUCKET: usize = 8;
/// Fewer under loom, which tries every interleaving.
#[cfg(loom)]
const BUCKET: usize = 2;
/// Number of lock stripes for insertions; a power of two so that a mask picks one.
const STRIPES: usize = 64;
/// The time of a cell during a takeover.
const TAKEN: u64 = u64::MAX;

/// Cells per segment, 16 KiB, allocated when the first key needs one of them. Reused memory is zeroed first,
/// and fresh memory is faulted in page by page: allocating the table of a million keys at once took a serving
/// core 0.3 to 20 milliseconds with each change of configuration.
#[cfg(not(loom))]
const SEGMENT: usize = 1024;
#[cfg(loom)]
const SEGMENT: usize = BUCKET;

/// The hash of its key (0 if it never had one) and its time.
type Cell = [AtomicU64; 2];
type Segment = OnceLock<Box<[Cell]>>;

/// Times of at most `capacity` keys, 16 bytes each; memory is allocated as keys arrive.
pub struct Cells {
    hasher: RandomState,
    capacity: usize,
    segments: Box<[Segment]>,
    newcomers: Box<[Mutex<()>]>,
    used: AtomicUsize,
}

/// Why the time was not updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept<R> {
    /// The step refused.
    Refused(R),
    /// All cells that the key could use are in use.
    Full,
}

impl Cells {
    /// A table for `capacity` keys, rounded down to a power of two of at least one bucket.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = 1 << capacity.max(BUCKET).ilog2();
        Self {
            hasher: RandomState::new(),
            capacity,
            segments: (0..capacity.div_ceil(SEGMENT)).map(|_| segment(capacity)).collect(),
            newcomers: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            used: AtomicUsize::new(0),
        }
    }

    /// The hash of `key` in this table.
    #[must_use]
    pub fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key).max(1)
    }

    /// The time of a key, 0 if it has none.
    #[must_use]
    pub fn time(&self, hash: u64) -> u64 {
        self.find(hash).map_or(0, |(_, time)| time)
    }

    /// Replace the time of a key (0 if it has none) by the result of `step`, which must be later than the old
    /// time and than `now_ns`, or leave it if `step` refuses. `step` may run more than once.
    ///
    /// # Errors
    /// `Kept` with the refusal of `step`, or if there is no cell for a new key.
    pub fn update<R>(
        &self,
        hash: u64,
        now_ns: u64,
        step: impl Fn(u64) -> Result<u64, R>,
    ) -> Result<u64, Kept<R>> {
        while let Some((cell, time)) = self.find(hash) {
            if let Some(done) = swap(cell, time, &step) {
                return done;
            }
        }
        let stripe = &self.newcomers[hash as usize & (STRIPES - 1)];
        let _alone = lock(stripe);
        loop {
            // Another thread may have inserted the key while this one waited.
            if let Some((cell, time)) = self.find(hash) {
                match swap(cell, time, &step) {
                    Some(done) => return done,
                    None => continue,
                }
            }
            let new = bounded(step(0).map_err(Kept::Refused)?);
            return if self.take(hash, new, now_ns) { Ok(new) } else { Err(Kept::Full) };
        }
    }

    /// Number of cells with a key, including those whose time has passed.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The cell of a key and the time read from it.
    fn find(&self, hash: u64) -> Option<(&Cell, u64)> {
        let buckets = self.buckets(hash, |segment| segment.get().map_or(&[], AsRef::as_ref));
        buckets.into_iter().flatten().find_map(|cell| {
            let time = cell[1].load(Ordering::Acquire);
            (cell[0].load(Ordering::Relaxed) == hash && time != TAKEN).then_some((cell, time))
        })
    }

    /// Take over an expired cell for a new key, in the bucket that has more of them.
    fn take(&self, hash: u64, new: u64, now_ns: u64) -> bool {
        let free =
            |bucket: &[Cell]| bucket.iter().filter(|cell| cell[1].load(Ordering::Relaxed) <= now_ns).count();
        let length = self.capacity.min(SEGMENT);
        let [mut first, mut second] =
            self.buckets(hash, |segment| segment.get_or_init(|| zeroed(length)).as_ref());
        if free(second) > free(first) {
            (first, second) = (second, first);
        }
        first.iter().chain(second).any(|cell| {
            let time = cell[1].load(Ordering::Relaxed);
            let taken = time <= now_ns
                && cell[1].compare_exchange(time, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if taken {
                if cell[0].swap(hash, Ordering::Relaxed) == 0 {
                    self.used.fetch_add(1, Ordering::Relaxed);
                }
                cell[1].store(new, Ordering::Release);
            }
            taken
        })
    }

    /// Both buckets of a key, with the cells of a segment from `cells`. The second is empty if they are the
    /// same; either is empty if its segment isn't allocated yet.
    fn buckets<'a>(&'a self, hash: u64, cells: impl Fn(&'a Segment) -> &'a [Cell]) -> [&'a [Cell]; 2] {
        let mask = self.capacity / BUCKET - 1;
        let (first, second) = (hash as usize & mask, (hash >> 32) as usize & mask);
        let bucket = |number: usize| {
            let place = number * BUCKET;
            let within = place % SEGMENT..place % SEGMENT + BUCKET;
            cells(&self.segments[place / SEGMENT]).get(within).unwrap_or_default()
        };
        [bucket(first), if first == second { &[] } else { bucket(second) }]
    }
}

/// Try once; `None` if another thread was faster.
fn swap<R>(cell: &Cell, time: u64, step: impl Fn(u64) -> Result<u64, R>) -> Option<Result<u64, Kept<R>>> {
    let new = match step(time) {
        Ok(new) => bounded(new),
        Err(refused) => return Some(Err(Kept::Refused(refused))),
    };
    let swapped = cell[1].compare_exchange(time, new, Ordering::AcqRel, Ordering::Relaxed);
    swapped.is_ok().then_some(Ok(new))
}

fn bounded(time: u64) -> u64 {
    time.min(TAKEN - 1)
}

#[cfg(not(loom))]
fn segment(_capacity: usize) -> Segment {
    Segment::new()
}

/// Allocated at once under loom, which doesn't model the synchronization of std's `OnceLock`.
#[cfg(loom)]
fn segment(capacity: usize) -> Segment {
    zeroed(capacity.min(SEGMENT)).into()
}

#[cfg(not(loom))]
fn zeroed(capacity: usize) -> Box<[Cell]> {
    bytemuck::zeroed_slice_box(capacity)
}

#[cfg(loom)]
fn zeroed(capacity: usize) -> Box<[Cell]> {
    (0..capacity).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn seven_cells_of_ten_are_taken_before_anybody_is_turned_away() {
        let cells = Cells::new(1 << 14);
        let turned_away =
            (0..).find(|key| cells.update(cells.hash(&key.to_string()), 0, |_| Ok::<_, ()>(1)).is_err());
        assert!(turned_away.unwrap() > (1 << 14) * 7 / 10, "{turned_away:?}");
    }

    #[test]
    fn a_key_that_is_known_keeps_its_time_whoever_else_comes() {
        let cells = Cells::new(64);
        assert_eq!(cells.update(7, 0, |_| Ok::<_, ()>(1_000)), Ok(1_000));
        for hash in 100..10_000 {
            let _ = cells.update(hash << 3, 0, |_| Ok::<_, ()>(10));
        }
        assert_eq!((cells.time(7), cells.time(8)), (1_000, 0));
        assert_eq!(cells.update(7, 0, Err::<u64, _>), Err(Kept::Refused(1_000)));
    }

    #[test]
    fn threads_that_update_and_push_each_other_out_lose_nothing() {
        // Sixteen cells for 64 keys: each thread's time advances, so cells are taken over all the time, but
        // the time of a key that has a cell never decreases.
        let cells = Cells::new(16);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let cells = &cells;
                scope.spawn(move || {
                    for turn in 0..20_000u64 {
                        let (hash, now) = (1 + (turn * 7 + thread * 13) % 64, turn);
                        let new = cells.update(hash, now, |time| Ok::<_, ()>(time.max(now) + 1));
                        assert!(new.is_err() || new.unwrap() > now);
                    }
                });
            }
        });
        assert!(cells.used() <= 16);
    }
}
