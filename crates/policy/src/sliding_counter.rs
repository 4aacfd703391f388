//! Sliding-window counter: two counts per key, interpolated.
//!
//! The number of requests in the span that ends now is estimated as `previous * (1 - f) + current`, where `f`
//! is the elapsed part of the current window. The estimate is exact for even traffic; it is too low if the
//! previous window's requests came late in it. So in any span of one window, which ends a part `f` into a
//! window, at most `(1 + f) * limit` pass, and within a short time `s` around the end of a window at most
//! `limit * (1 + s / window)`: there is no boundary burst.
//!
//! The argument: let `a` of the previous window's requests lie in the span, and `b` of the current
//! window's. When the last of the `b` was admitted, at a part `g <= f`, the estimate was at least
//! `a * (1 - g) + b` and at most the limit; so `a + b <= limit + a * g <= limit * (1 + f)`.

use crate::Left;
use crate::gcra::Decision;
use crate::keyed::Rule;

/// About `requests` in any span of one window.
#[derive(Debug, Clone, Copy)]
pub struct SlidingCounter {
    pub requests: u32,
    /// Above 0.
    pub window_ns: u64,
}

/// The current window of the clock, its count, and that of the window before.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    window: u64,
    current: u32,
    previous: u32,
}

impl SlidingCounter {
    fn at(&self, counts: Counts, now_ns: u64) -> Counts {
        let window = now_ns / self.window_ns;
        match window.saturating_sub(counts.window) {
            0 => counts,
            1 => Counts { window, current: 0, previous: counts.current },
            _ => Counts { window, current: 0, previous: 0 },
        }
    }

    /// How far into a window `previous * (1 - f) + current + 1` comes within the limit.
    fn due_ns(&self, previous: u32, current: u32) -> u64 {
        let room = u128::from(self.requests.saturating_sub(current.saturating_add(1)));
        let (window, previous) = (u128::from(self.window_ns), u128::from(previous));
        if previous <= room {
            return 0;
        }
        u64::try_from(window - room * window / previous).unwrap_or(self.window_ns)
    }
}

impl Rule for SlidingCounter {
    type Account = Counts;

    fn open(&self, now_ns: u64) -> Counts {
        Counts { window: now_ns / self.window_ns, current: 0, previous: 0 }
    }

    fn check(&self, counts: &mut Counts, now_ns: u64) -> Decision {
        *counts = self.at(*counts, now_ns);
        let elapsed = now_ns.saturating_sub(counts.window * self.window_ns);
        let due = self.due_ns(counts.previous, counts.current);
        if counts.current < self.requests && elapsed >= due {
            counts.current += 1;
            return Decision::Allowed;
        }
        let retry_after_ns = if counts.current < self.requests && due < self.window_ns {
            due - elapsed
        } else {
            self.window_ns - elapsed + self.due_ns(counts.current, 0)
        };
        Decision::Refused { retry_after_ns }
    }

    fn left(&self, counts: &Counts, now_ns: u64) -> Left {
        let counts = self.at(*counts, now_ns);
        let remains = self.window_ns.saturating_sub(now_ns.saturating_sub(counts.window * self.window_ns));
        let still = u128::from(counts.previous) * u128::from(remains);
        let still = u64::try_from(still.div_ceil(u128::from(self.window_ns))).unwrap_or(u64::MAX);
        let used = still.saturating_add(counts.current.into());
        Left { requests: u64::from(self.requests).saturating_sub(used), reset_ns: remains }
    }

    fn idle_at_ns(&self, counts: &Counts) -> u64 {
        (counts.window + 2).saturating_mul(self.window_ns)
    }
}
