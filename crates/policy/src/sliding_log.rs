//! Sliding-window log: the time of each admitted request; exact, at 8 bytes each.

use std::collections::VecDeque;

use crate::Left;
use crate::gcra::Decision;
use crate::keyed::Rule;

/// At most `requests` in any span of one window.
#[derive(Debug, Clone, Copy)]
pub struct SlidingLog {
    pub requests: u32,
    /// Above 0.
    pub window_ns: u64,
}

impl SlidingLog {
    /// When a request admitted at `then_ns` no longer counts.
    fn forgotten_at(&self, then_ns: u64) -> u64 {
        then_ns.saturating_add(self.window_ns)
    }
}

impl Rule for SlidingLog {
    /// Oldest first.
    type Account = VecDeque<u64>;

    fn open(&self, _now_ns: u64) -> VecDeque<u64> {
        VecDeque::new()
    }

    fn check(&self, log: &mut VecDeque<u64>, now_ns: u64) -> Decision {
        while log.front().is_some_and(|then| self.forgotten_at(*then) <= now_ns) {
            log.pop_front();
        }
        match log.front() {
            Some(oldest) if log.len() >= self.requests as usize => {
                Decision::Refused { retry_after_ns: self.forgotten_at(*oldest) - now_ns }
            }
            newest => {
                // Threads read the clock before they take the lock; the log stays in order all the same.
                let newest = newest.and_then(|_| log.back()).copied();
                log.push_back(newest.map_or(now_ns, |newest| newest.max(now_ns)));
                Decision::Allowed
            }
        }
    }

    fn left(&self, log: &VecDeque<u64>, now_ns: u64) -> Left {
        let counts = |then: &&u64| self.forgotten_at(**then) > now_ns;
        let used = log.iter().filter(counts).count() as u64;
        let reset_ns = self.idle_at_ns(log).saturating_sub(now_ns);
        Left { requests: u64::from(self.requests).saturating_sub(used), reset_ns }
    }

    fn idle_at_ns(&self, log: &VecDeque<u64>) -> u64 {
        log.back().map_or(0, |newest| self.forgotten_at(*newest))
    }
}
