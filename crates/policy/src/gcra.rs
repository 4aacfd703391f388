//! The generic cell rate algorithm (ITU-T I.371): one timestamp per key.
//!
//! A key's *theoretical arrival time* (TAT) is when its next request is due at the steady rate. A request is
//! admitted if it is early by no more than the burst allows. So over any span `t` a key is admitted at most
//! `rate * t + burst` times, whatever the arrivals.

use crate::Left;
use crate::cells::{Cells, Kept};

/// A limit of a rate per second and a burst, for at most `capacity` keys.
pub struct Gcra {
    interval_ns: u64,
    tolerance_ns: u64,
    cells: Cells,
}

/// The decision on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The request is admitted.
    Allowed,
    /// Too early; the same request would be admitted after this many nanoseconds.
    Refused { retry_after_ns: u64 },
}

impl Gcra {
    /// `rate` per second, `burst` at once, `capacity` keys in memory.
    #[must_use]
    pub fn new(rate: f64, burst: u32, capacity: usize) -> Self {
        let interval_ns = ((1e9 / rate.max(1e-6)).ceil() as u64).max(1);
        Self {
            interval_ns,
            tolerance_ns: interval_ns.saturating_mul(u64::from(burst.max(1)) - 1),
            cells: Cells::new(capacity),
        }
    }

    /// Decide one request of `key` at `now_ns`.
    ///
    /// A key whose TAT has passed may lose its cell, which changes nothing for it. A new key is refused for
    /// one interval if all cells that it could use are in debt, so that memory stays bounded and the rate is
    /// never exceeded.
    pub fn check(&self, key: &str, now_ns: u64) -> Decision {
        let advanced = self.cells.update(self.cells.hash(key), now_ns, |tat| match self.early(tat, now_ns) {
            0 => Ok(tat.max(now_ns).saturating_add(self.interval_ns)),
            retry_after_ns => Err(retry_after_ns),
        });
        match advanced {
            Ok(_) => Decision::Allowed,
            Err(Kept::Refused(retry_after_ns)) => Decision::Refused { retry_after_ns },
            Err(Kept::Full) => Decision::Refused { retry_after_ns: self.interval_ns },
        }
    }

    /// What `check` would decide for a key that has a cell, without counting the request.
    #[must_use]
    pub fn look(&self, key: &str, now_ns: u64) -> Decision {
        match self.early(self.cells.time(self.cells.hash(key)), now_ns) {
            0 => Decision::Allowed,
            retry_after_ns => Decision::Refused { retry_after_ns },
        }
    }

    /// How much too early a request at `now_ns` is.
    fn early(&self, tat_ns: u64, now_ns: u64) -> u64 {
        tat_ns.saturating_sub(now_ns).saturating_sub(self.tolerance_ns)
    }

    /// What `key` has left at `now_ns`.
    #[must_use]
    pub fn left(&self, key: &str, now_ns: u64) -> Left {
        let debt_ns = self.cells.time(self.cells.hash(key)).saturating_sub(now_ns);
        let free_ns = self.burst_ns().saturating_sub(debt_ns);
        Left { requests: free_ns / self.interval_ns, reset_ns: debt_ns }
    }

    /// Raise the TAT of `key` to `tat_ns` if it is earlier: the key was also used elsewhere.
    pub fn raise(&self, key: &str, tat_ns: u64, now_ns: u64) {
        // A later TAT stays; a new key that gets no cell is limited by this node alone.
        let _ = self.cells.update(self.cells.hash(key), now_ns, |tat| {
            if tat_ns > tat.max(now_ns) { Ok(tat_ns) } else { Err(()) }
        });
    }

    /// The time between two requests at the steady rate.
    #[must_use]
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// How early a request may be.
    #[must_use]
    pub fn tolerance_ns(&self) -> u64 {
        self.tolerance_ns
    }

    /// Time to earn a whole burst.
    #[must_use]
    pub fn burst_ns(&self) -> u64 {
        self.tolerance_ns.saturating_add(self.interval_ns)
    }

    /// Number of keys in memory.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.cells.used()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_above_rate_times_time_plus_burst(
            gaps in prop::collection::vec(0u64..50_000_000, 1..400),
            rate in 1u32..5_000, burst in 1u32..50,
        ) {
            let limiter = Gcra::new(f64::from(rate), burst, 1024);
            let (mut now, mut admitted) = (1_000u64, Vec::new());
            for gap in gaps {
                now += gap;
                let seen = limiter.look("key", now);
                prop_assert_eq!(limiter.check("key", now), seen);
                if seen == Decision::Allowed { admitted.push(now); }
            }
            for (i, start) in admitted.iter().enumerate() {
                for (j, end) in admitted.iter().enumerate().skip(i) {
                    let seconds = (end - start) as f64 / 1e9;
                    prop_assert!((j - i + 1) as f64 <= f64::from(rate) * seconds + f64::from(burst) + 1e-6);
                }
            }
        }

        #[test]
        fn a_refused_request_is_admitted_after_the_time_it_was_told(
            rate in 1u32..1_000, burst in 1u32..20, extra in 0usize..20,
        ) {
            let limiter = Gcra::new(f64::from(rate), burst, 1024);
            for _ in 0..burst as usize + extra {
                if let Decision::Refused { retry_after_ns } = limiter.check("key", 5) {
                    prop_assert_eq!(limiter.check("key", 5 + retry_after_ns), Decision::Allowed);
                    return Ok(());
                }
            }
        }
    }

    #[test]
    fn one_key_in_debt_does_not_hold_another_back() {
        let limiter = Gcra::new(1.0, 1, 1024);
        for _ in 0..100 {
            let _ = limiter.check("greedy", 0);
        }
        assert_eq!(limiter.check("modest", 0), Decision::Allowed);
    }

    #[test]
    fn a_million_keys_leave_memory_bounded() {
        let limiter = Gcra::new(1.0, 1, 10_000);
        for number in 0..1_000_000u64 {
            let _ = limiter.check(&number.to_string(), number);
        }
        assert!(limiter.keys() <= 10_000);
    }
}
