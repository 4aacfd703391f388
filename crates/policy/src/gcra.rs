//! The generic cell rate algorithm (ITU-T I.371): one timestamp for each key.
//!
//! A key's *theoretical arrival time* (TAT) says when its next request would be due at the steady
//! rate. A request is admitted if it is early by no more than the burst allows. So over any span
//! `t` a key is admitted at most `rate * t + burst` times, whatever the arrivals.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shards bound the contention between threads; a power of two so that a mask picks one.
const SHARDS: usize = 16;

/// A rate per second and a burst, and at most `capacity` keys remembered.
pub struct Gcra {
    interval_ns: u64,
    tolerance_ns: u64,
    capacity_per_shard: usize,
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Box<str>, u64>>>,
}

/// What the limiter says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
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
            capacity_per_shard: (capacity / SHARDS).max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Decide one request of `key` at `now_ns`.
    ///
    /// When a shard is full, keys whose TAT has passed are forgotten, which changes nothing for
    /// them; if every key is still in debt, the newcomer is refused for one interval, so that
    /// memory stays bounded without ever admitting more than the rate.
    pub fn check(&self, key: &str, now_ns: u64) -> Decision {
        let mut shard = self.shard(key);
        if let Some(tat) = shard.get_mut(key) {
            let due = (*tat).max(now_ns);
            let early = due - now_ns;
            if early > self.tolerance_ns {
                return Decision::Refused { retry_after_ns: early - self.tolerance_ns };
            }
            *tat = due + self.interval_ns;
            return Decision::Allowed;
        }
        if shard.len() >= self.capacity_per_shard {
            shard.retain(|_, tat| *tat > now_ns);
            if shard.len() >= self.capacity_per_shard {
                return Decision::Refused { retry_after_ns: self.interval_ns };
            }
        }
        shard.insert(key.into(), now_ns + self.interval_ns);
        Decision::Allowed
    }

    /// Let the TAT of `key` be `tat_ns` if it is earlier: the key spent elsewhere too.
    pub fn raise(&self, key: &str, tat_ns: u64, now_ns: u64) {
        let mut shard = self.shard(key);
        if let Some(tat) = shard.get_mut(key) {
            *tat = (*tat).max(tat_ns);
        } else if tat_ns > now_ns && shard.len() < self.capacity_per_shard {
            shard.insert(key.into(), tat_ns);
        }
    }

    /// The time between two requests at the steady rate.
    #[must_use]
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// How long it takes to earn a whole burst.
    #[must_use]
    pub fn burst_ns(&self) -> u64 {
        self.tolerance_ns.saturating_add(self.interval_ns)
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<Box<str>, u64>> {
        let index = self.hasher.hash_one(key) as usize & (SHARDS - 1);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
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
                if limiter.check("key", now) == Decision::Allowed { admitted.push(now); }
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
