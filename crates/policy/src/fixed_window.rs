//! Fixed-window counter, reset at each window of the clock. For comparison: around the end of a window up to
//! twice the limit passes at once.

use crate::Left;
use crate::gcra::Decision;
use crate::keyed::Rule;

/// At most `requests` per window.
#[derive(Debug, Clone, Copy)]
pub struct FixedWindow {
    pub requests: u32,
    /// Above 0.
    pub window_ns: u64,
}

/// The current window and its count.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    window: u64,
    requests: u32,
}

impl FixedWindow {
    fn counted(&self, count: &Count, now_ns: u64) -> u32 {
        if now_ns / self.window_ns > count.window { 0 } else { count.requests }
    }

    fn until_next(&self, now_ns: u64) -> u64 {
        self.window_ns - now_ns % self.window_ns
    }
}

impl Rule for FixedWindow {
    type Account = Count;

    fn open(&self, now_ns: u64) -> Count {
        Count { window: now_ns / self.window_ns, requests: 0 }
    }

    fn check(&self, count: &mut Count, now_ns: u64) -> Decision {
        let requests = self.counted(count, now_ns);
        if requests >= self.requests {
            return Decision::Refused { retry_after_ns: self.until_next(now_ns) };
        }
        *count = Count { window: count.window.max(now_ns / self.window_ns), requests: requests + 1 };
        Decision::Allowed
    }

    fn left(&self, count: &Count, now_ns: u64) -> Left {
        let requests = self.requests.saturating_sub(self.counted(count, now_ns)).into();
        Left { requests, reset_ns: self.until_next(now_ns) }
    }

    fn idle_at_ns(&self, count: &Count) -> u64 {
        (count.window + 1).saturating_mul(self.window_ns)
    }
}
