//! Lock-free rolling counts of successes and failures: ten buckets of one word each, which holds the number
//! of its time span and both counts.

use crate::sync::{AtomicU64, Ordering};

const BUCKETS: u64 = 10;
/// Bits of a count; it saturates at about a million in a tenth of a window.
const BITS: u32 = 20;
const MOST: u64 = (1 << BITS) - 1;

/// Counts over a window that expire a tenth of it at a time.
pub struct Rolling {
    span_ns: u64,
    buckets: [AtomicU64; BUCKETS as usize],
}

impl Rolling {
    #[must_use]
    pub fn new(window_ns: u64) -> Self {
        Self { span_ns: (window_ns / BUCKETS).max(1), buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Count one more.
    pub fn add(&self, success: bool, now_ns: u64) {
        let span = self.span(now_ns);
        let one = if success { 1 } else { 1 << BITS };
        let add = |word: u64| {
            let (succeeded, failed) = counts(word);
            let full = if success { succeeded } else { failed } >= MOST;
            match (word >> (2 * BITS) == span, full) {
                (true, true) => None,
                (true, false) => Some(word + one),
                (false, _) => Some((span << (2 * BITS)) + one),
            }
        };
        // Fails if the count is saturated, which is fine.
        let _ =
            self.buckets[(span % BUCKETS) as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Successes and failures of the window that ends now.
    #[must_use]
    pub fn totals(&self, now_ns: u64) -> (u32, u32) {
        let span = self.span(now_ns);
        let recent = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).filter(|word| {
            let age = span.wrapping_sub(word >> (2 * BITS)) & self.mask();
            age < BUCKETS
        });
        recent
            .map(counts)
            .fold((0, 0), |sum, (succeeded, failed)| (sum.0 + succeeded as u32, sum.1 + failed as u32))
    }

    /// Reset all counts.
    pub fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    /// The number of a span, truncated to a bucket's bits; 0 means none.
    fn span(&self, now_ns: u64) -> u64 {
        (now_ns / self.span_ns + BUCKETS) & self.mask()
    }

    fn mask(&self) -> u64 {
        (1 << (64 - 2 * BITS)) - 1
    }
}

fn counts(word: u64) -> (u64, u64) {
    (word & MOST, (word >> BITS) & MOST)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_counted_is_what_happened_in_the_window_to_a_tenth(
            events in prop::collection::vec((0u64..500, any::<bool>()), 1..200),
        ) {
            let (rolling, mut now, mut happened) = (Rolling::new(1_000), 0, Vec::new());
            for (gap, success) in events {
                now += gap;
                rolling.add(success, now);
                happened.push((now, success));
                let within = |window: u64, which: bool| {
                    happened.iter().filter(|(at, success)| *at + window > now && *success == which).count() as u32
                };
                let (succeeded, failed) = rolling.totals(now);
                prop_assert!((within(900, true)..=within(1_000, true)).contains(&succeeded));
                prop_assert!((within(900, false)..=within(1_000, false)).contains(&failed));
            }
        }
    }
}
