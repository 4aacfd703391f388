//! A bulkhead: limits each tenant's concurrent requests, so that one tenant's slow requests can't take all
//! places of a service (Nygard, "Release It!").

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::sync::{Mutex, MutexGuard, lock};

/// Shards bound the contention between threads; a power of two so that a mask picks one.
const SHARDS: usize = 16;

/// Counts by key. There are never more keys than requests in flight.
pub struct Bulkhead {
    most: usize,
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Box<str>, usize>>>,
}

impl Bulkhead {
    /// At most `most` per key.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect();
        Self { most, hasher: RandomState::new(), shards }
    }

    /// Count one more of `key`, unless it is at its limit. Each must be returned by `leave`.
    pub fn enter(&self, key: &str) -> bool {
        let mut shard = self.shard(key);
        match shard.get_mut(key) {
            Some(count) if *count >= self.most => return false,
            Some(count) => *count += 1,
            None => {
                shard.insert(key.into(), 1);
            }
        }
        true
    }

    /// Return one.
    pub fn leave(&self, key: &str) {
        let mut shard = self.shard(key);
        if let Some(count) = shard.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                shard.remove(key);
            }
        }
    }

    /// Number of keys with requests in flight.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
        lock(&self.shards[self.hasher.hash_one(key) as usize & (SHARDS - 1)])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_places_of_its_own_and_none_is_remembered_without_need() {
        let bulkhead = Bulkhead::new(2);
        let entered = ["a", "a", "a", "b"].map(|key| bulkhead.enter(key));
        assert_eq!(entered, [true, true, false, true]);
        bulkhead.leave("a");
        assert!(bulkhead.enter("a"));
        for key in ["a", "a", "b"] {
            bulkhead.leave(key);
        }
        assert_eq!(bulkhead.keys(), 0);
    }
}
