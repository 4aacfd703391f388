//! A circuit breaker: after a run of failures the endpoint is left alone for a while, then a
//! limited number of probes decide whether it is back (Nygard, "Release It!").

/// The three states of the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed,
    /// Requests are refused until the time has come for a probe.
    Open { until_ns: u64 },
    /// One request at a time passes, to see whether the endpoint is back.
    HalfOpen { probing: bool },
}

/// Counts failures in a row; any success closes it.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    threshold: u32,
    open_ns: u64,
}

impl Breaker {
    /// Opens after `threshold` failures in a row, for `open_ns`.
    #[must_use]
    pub fn new(threshold: u32, open_ns: u64) -> Self {
        Self { state: State::Closed, failures: 0, threshold: threshold.max(1), open_ns }
    }

    /// May a request pass at `now_ns`? In the half-open state a `true` takes the one probe, which
    /// must be given back by `success`, `failure` or `forget`.
    pub fn admit(&mut self, now_ns: u64) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until_ns } if now_ns >= until_ns => {
                self.state = State::HalfOpen { probing: true };
                true
            }
            State::HalfOpen { probing: false } => {
                self.state = State::HalfOpen { probing: true };
                true
            }
            State::Open { .. } | State::HalfOpen { probing: true } => false,
        }
    }

    /// The endpoint answered.
    pub fn success(&mut self) {
        self.failures = 0;
        self.state = State::Closed;
    }

    /// The endpoint failed.
    pub fn failure(&mut self, now_ns: u64) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.threshold || matches!(self.state, State::HalfOpen { .. }) {
            self.state = State::Open { until_ns: now_ns + self.open_ns };
        }
    }

    /// The outcome will never be known (the client hung up); a probe is given back.
    pub fn forget(&mut self) {
        if let State::HalfOpen { probing } = &mut self.state {
            *probing = false;
        }
    }

    /// The state's name, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_open_breaker_admits_nothing_before_its_time_and_one_probe_after(
            outcomes in prop::collection::vec((any::<bool>(), 0u64..300), 1..300),
        ) {
            let mut breaker = Breaker::new(3, 1_000);
            let (mut now, mut in_a_row) = (0u64, 0u32);
            let mut reopens_at = None;
            for (good, gap) in outcomes {
                now += gap;
                let admitted = breaker.admit(now);
                prop_assert_eq!(admitted, reopens_at.is_none_or(|at| now >= at));
                if !admitted { continue; }
                if reopens_at.is_some() { prop_assert!(!breaker.admit(now)); }
                if good {
                    breaker.success();
                    in_a_row = 0;
                    reopens_at = None;
                } else {
                    breaker.failure(now);
                    in_a_row += 1;
                    if in_a_row >= 3 || reopens_at.is_some() { reopens_at = Some(now + 1_000); }
                }
            }
        }
    }
}
