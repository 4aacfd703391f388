//! One timestamp for each of many keys, in bounded memory; lookups of known keys take no lock.
//!
//! A table of cells in buckets of eight. A cell is two words: the hash of a key, and a time that
//! only grows for as long as the cell is that key's. A key has two buckets, and comes to the emptier
//! one, so that none is turned away before seven cells of ten are taken (Azar et al., "Balanced
//! allocations", 1994).
//!
//! **Keys are hashes** of 64 bits under a secret of the process. Two keys share a cell with a
//! probability of 1 in 2^64 for each pair, and nobody outside can look for such a pair.
//!
//! **Why no update is lost or charged to another key.** A cell whose time has passed owes nothing
//! and may go to a newcomer. Who updates reads the time first, then the key, then swaps the time if
//! it is still what was read. Who takes a cell over first swaps the time for [`TAKEN`], then writes
//! the key, then the new time, which is later than the old one. So a time that was read before
//! the take-over is never there again, and the swap fails; one that was read after it comes with
//! the new key. Newcomers of one hash wait for each other (a lock of their stripe) and look again,
//! so no key has two cells. `tests/interleavings.rs` explores all of it with loom.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// Cells of a bucket: two cache lines of 64 bytes.
#[cfg(not(loom))]
const BUCKET: usize = 8;
/// Fewer, where every interleaving is tried.
#[cfg(loom)]
const BUCKET: usize = 2;
/// Newcomers wait for others of the same of so many stripes; a power of two so that a mask picks one.
const STRIPES: usize = 64;
/// The time of a cell that is changing hands.
const TAKEN: u64 = u64::MAX;

/// Cells that come into being together, 16 KiB, when the first key wants one of them. Memory that was
/// used before is zeroed first, and memory that wasn't is had page by page: the table of a million keys in
/// one piece took 0.3 to 20 milliseconds of a core that serves, with each change of a configuration.
#[cfg(not(loom))]
const SEGMENT: usize = 1024;
#[cfg(loom)]
const SEGMENT: usize = BUCKET;

/// The hash of its key (0 while it never had one) and its time.
type Cell = [AtomicU64; 2];
type Segment = OnceLock<Box<[Cell]>>;

/// Times of at most `capacity` keys, 16 bytes each; memory is taken as keys come.
pub struct Cells {
    hasher: RandomState,
    capacity: usize,
    segments: Box<[Segment]>,
    newcomers: Box<[Mutex<()>]>,
    used: AtomicUsize,
}

/// Why there is no new time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept<R> {
    /// The step said so.
    Refused(R),
    /// Every cell that the key could have is one that still counts.
    Full,
}

impl Cells {
    /// Room for `capacity` keys, rounded down to a power of two of at least one bucket.
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

    /// What stands for `key` here.
    #[must_use]
    pub fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key).max(1)
    }

    /// The time of a key, 0 if it has none.
    #[must_use]
    pub fn time(&self, hash: u64) -> u64 {
        self.find(hash).map_or(0, |(_, time)| time)
    }

    /// Replace the time of a key (0 if it has none) by what `step` makes of it, which must be later
    /// than the old time and than `now_ns`, or leave it as `step` says. `step` may run more than once.
    ///
    /// # Errors
    /// `Kept` with what `step` refused by, or because there is no room for a new key.
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
            // Another newcomer of the same key may have been here while this one waited.
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

    /// How many cells have a key, those whose time has passed among them.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The cell of a key, and the time that it has as long as nobody else is faster.
    fn find(&self, hash: u64) -> Option<(&Cell, u64)> {
        let buckets = self.buckets(hash, |segment| segment.get().map_or(&[], AsRef::as_ref));
        buckets.into_iter().flatten().find_map(|cell| {
            let time = cell[1].load(Ordering::Acquire);
            (cell[0].load(Ordering::Relaxed) == hash && time != TAKEN).then_some((cell, time))
        })
    }

    /// Give a newcomer a cell that nobody needs any more, of the bucket that has more of them.
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

    /// Both buckets of a key, in the segments as `cells` has them; the second is empty if they are the
    /// same, and either is where there are no cells yet.
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

/// One try; nothing if another thread was faster.
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

/// With its cells: loom doesn't know what std's `OnceLock` makes visible to whom.
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
        // Sixteen cells for 64 keys: each thread's time goes on, so cells change hands all the time,
        // but the time of a key that has a cell never goes back.
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
