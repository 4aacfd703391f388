//! Bounded state by key, for limits that need more than one timestamp.
//!
//! Shards with a lock each, held for the few nanoseconds of a decision. The default algorithm needs no locks
//! (`cells`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Left;
use crate::gcra::Decision;

/// Shards bound the contention between threads; a power of two so that a mask picks one.
const SHARDS: usize = 16;

/// How requests of a key are counted.
pub trait Rule {
    type Account;

    /// A new account.
    fn open(&self, now_ns: u64) -> Self::Account;

    /// Decide one request.
    fn check(&self, account: &mut Self::Account, now_ns: u64) -> Decision;

    /// What is left of an account.
    fn left(&self, account: &Self::Account, now_ns: u64) -> Left;

    /// When the account becomes equivalent to a new one, so that it can be dropped.
    fn idle_at_ns(&self, account: &Self::Account) -> u64;
}

type Accounts<A> = HashMap<Box<str>, A>;

/// A rule, and at most `capacity` accounts.
pub struct Keyed<R: Rule> {
    rule: R,
    capacity_per_shard: usize,
    hasher: RandomState,
    shards: Vec<Mutex<Shard<R::Account>>>,
}

struct Shard<A> {
    accounts: Accounts<A>,
    /// No account becomes idle before this, so that a full shard isn't searched for each new key.
    full_until_ns: u64,
}

impl<R: Rule> Keyed<R> {
    #[must_use]
    pub fn new(rule: R, capacity: usize) -> Self {
        let shard = || Mutex::new(Shard { accounts: HashMap::new(), full_until_ns: 0 });
        Self {
            rule,
            capacity_per_shard: (capacity / SHARDS).max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// Decide one request of `key` at `now_ns`.
    ///
    /// When a shard is full, idle accounts are dropped, which changes nothing for them; if there are none, a
    /// new key is refused until there is one.
    pub fn check(&self, key: &str, now_ns: u64) -> Decision {
        let mut shard = self.shard(key);
        if let Some(account) = shard.accounts.get_mut(key) {
            return self.rule.check(account, now_ns);
        }
        if shard.accounts.len() >= self.capacity_per_shard {
            if now_ns >= shard.full_until_ns {
                shard.accounts.retain(|_, account| self.rule.idle_at_ns(account) > now_ns);
                let idle_at_ns = shard.accounts.values().map(|account| self.rule.idle_at_ns(account)).min();
                shard.full_until_ns = idle_at_ns.unwrap_or(0);
            }
            if shard.accounts.len() >= self.capacity_per_shard {
                return Decision::Refused { retry_after_ns: (shard.full_until_ns - now_ns).max(1) };
            }
        }
        let mut account = self.rule.open(now_ns);
        let decision = self.rule.check(&mut account, now_ns);
        shard.accounts.insert(key.into(), account);
        decision
    }

    /// What `key` has left at `now_ns`.
    #[must_use]
    pub fn left(&self, key: &str, now_ns: u64) -> Left {
        let shard = self.shard(key);
        match shard.accounts.get(key) {
            Some(account) => self.rule.left(account, now_ns),
            None => self.rule.left(&self.rule.open(now_ns), now_ns),
        }
    }

    /// Number of keys in memory.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).accounts.len()).sum()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard<R::Account>> {
        lock(&self.shards[self.hasher.hash_one(key) as usize & (SHARDS - 1)])
    }
}

fn lock<A>(shard: &Mutex<Shard<A>>) -> MutexGuard<'_, Shard<A>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
