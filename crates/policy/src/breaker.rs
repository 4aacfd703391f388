//! A circuit breaker: an endpoint that fails gets no requests for a while, then a limited number of probes
//! decide whether it has recovered (Nygard, "Release It!").
//!
//! It opens after a number of consecutive failures, which detects an endpoint that is down at once, or when a
//! fraction of the requests in a rolling window failed, which detects intermittent failures. In the half-open
//! state only requests admitted as probes count: an answer to an earlier request says nothing about now. An
//! operator may hold the breaker open or closed; its own state continues underneath, and applies again when
//! it is released.
//!
//! While it is closed, admitting a request reads one flag, and a success costs an addition or two: no lock.

use crate::rolling::Rolling;
use crate::sync::{AtomicBool, AtomicU32, Mutex, Ordering, lock};

/// When a breaker opens, and what closes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Consecutive failures that open it; at least 1.
    pub failures: u32,
    /// The fraction of failed requests in the window that opens it; above 1, never.
    pub ratio: f64,
    pub window_ns: u64,
    /// The ratio applies only from this many requests in the window on.
    pub minimum: u32,
    /// How long it stays open.
    pub open_ns: u64,
    /// Number of probes in the half-open state, all of which must succeed; at least 1.
    pub probes: u32,
}

/// Whether the breaker or an operator decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Auto,
    /// Held by an operator: nothing passes.
    HeldOpen,
    /// Held by an operator: everything passes.
    HeldClosed,
}

/// The three states of the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed,
    /// Requests are refused until the time for probes.
    Open { until_ns: u64 },
    /// A limited number of requests pass as probes.
    HalfOpen { under_way: u32, succeeded: u32 },
}

/// Why the state is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Started,
    FailuresInARow(u32),
    FailedOf(u32, u32),
    ProbeFailed,
    TimeToProbe,
    ProbesSucceeded,
}

/// How a request was admitted; passed back with its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Free,
    /// As a probe of this half-open period.
    Probe(u32),
}

/// The state as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub mode: Mode,
    pub state: State,
    pub reason: Reason,
    pub changed_ns: u64,
}

pub struct Breaker {
    settings: Settings,
    /// Whether everything passes.
    passes: AtomicBool,
    in_a_row: AtomicU32,
    counts: Rolling,
    inner: Mutex<Inner>,
}

struct Inner {
    view: View,
    /// The number of the last half-open period.
    period: u32,
}

impl Breaker {
    /// Closed, as of `now_ns`.
    #[must_use]
    pub fn new(settings: Settings, now_ns: u64) -> Self {
        let view =
            View { mode: Mode::Auto, state: State::Closed, reason: Reason::Started, changed_ns: now_ns };
        Self {
            settings,
            passes: AtomicBool::new(true),
            in_a_row: AtomicU32::new(0),
            counts: Rolling::new(settings.window_ns),
            inner: Mutex::new(Inner { view, period: 0 }),
        }
    }

    /// Whether all requests pass now.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.passes.load(Ordering::Relaxed)
    }

    /// Admit a request at `now_ns`, if it may pass. Report its outcome by `success`, `failure` or `forget`.
    pub fn admit(&self, now_ns: u64) -> Option<Pass> {
        if self.passes() {
            return Some(Pass::Free);
        }
        let mut inner = lock(&self.inner);
        match inner.view.mode {
            Mode::HeldClosed => return Some(Pass::Free),
            Mode::HeldOpen => return None,
            Mode::Auto => {}
        }
        match inner.view.state {
            State::Closed => Some(Pass::Free),
            State::Open { until_ns } if now_ns < until_ns => None,
            State::Open { .. } => {
                inner.period = inner.period.wrapping_add(1);
                let state = State::HalfOpen { under_way: 1, succeeded: 0 };
                self.become_(&mut inner, state, Reason::TimeToProbe, now_ns);
                Some(Pass::Probe(inner.period))
            }
            State::HalfOpen { under_way, succeeded } if under_way + succeeded < self.settings.probes => {
                inner.view.state = State::HalfOpen { under_way: under_way + 1, succeeded };
                Some(Pass::Probe(inner.period))
            }
            State::HalfOpen { .. } => None,
        }
    }

    /// The endpoint answered.
    pub fn success(&self, pass: Pass, now_ns: u64) {
        if self.settings.ratio <= 1.0 {
            self.counts.add(true, now_ns);
        }
        if self.in_a_row.load(Ordering::Relaxed) > 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        self.probed(pass, |inner, under_way, succeeded| {
            if succeeded + 1 >= self.settings.probes {
                self.counts.clear();
                self.become_(inner, State::Closed, Reason::ProbesSucceeded, now_ns);
            } else {
                inner.view.state = State::HalfOpen { under_way: under_way - 1, succeeded: succeeded + 1 };
            }
        });
    }

    /// The endpoint failed.
    pub fn failure(&self, pass: Pass, now_ns: u64) {
        if self.settings.ratio <= 1.0 {
            self.counts.add(false, now_ns);
        }
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.probed(pass, |inner, _, _| self.open(inner, Reason::ProbeFailed, now_ns));
        if let Some(reason) = self.verdict(in_a_row, now_ns) {
            let mut inner = lock(&self.inner);
            if inner.view.state == State::Closed {
                self.open(&mut inner, reason, now_ns);
            }
        }
    }

    /// The outcome is unknown, as when the client disconnects; returns a probe.
    pub fn forget(&self, pass: Pass) {
        self.probed(pass, |inner, under_way, succeeded| {
            inner.view.state = State::HalfOpen { under_way: under_way - 1, succeeded };
        });
    }

    /// Hold the breaker, or release it. Releasing resets the failure counts.
    pub fn hold(&self, mode: Mode, now_ns: u64) {
        let mut inner = lock(&self.inner);
        inner.view.mode = mode;
        inner.view.changed_ns = now_ns;
        if mode == Mode::Auto {
            self.counts.clear();
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        self.tell(&inner);
    }

    /// The current state.
    #[must_use]
    pub fn view(&self) -> View {
        lock(&self.inner).view
    }

    fn verdict(&self, in_a_row: u32, now_ns: u64) -> Option<Reason> {
        if in_a_row >= self.settings.failures {
            return Some(Reason::FailuresInARow(in_a_row));
        }
        if self.settings.ratio > 1.0 {
            return None;
        }
        let (succeeded, failed) = self.counts.totals(now_ns);
        let all = succeeded.saturating_add(failed);
        let too_many =
            all >= self.settings.minimum && f64::from(failed) >= self.settings.ratio * f64::from(all);
        too_many.then_some(Reason::FailedOf(failed, all))
    }

    /// Handle the outcome of a probe of the current half-open period; `then` gets the number of probes in
    /// flight and succeeded.
    fn probed(&self, pass: Pass, then: impl FnOnce(&mut Inner, u32, u32)) {
        let Pass::Probe(period) = pass else { return };
        let mut inner = lock(&self.inner);
        if let State::HalfOpen { under_way, succeeded } = inner.view.state
            && inner.period == period
        {
            then(&mut inner, under_way, succeeded);
        }
    }

    fn open(&self, inner: &mut Inner, reason: Reason, now_ns: u64) {
        self.in_a_row.store(0, Ordering::Relaxed);
        let until_ns = now_ns.saturating_add(self.settings.open_ns);
        self.become_(inner, State::Open { until_ns }, reason, now_ns);
    }

    fn become_(&self, inner: &mut Inner, state: State, reason: Reason, now_ns: u64) {
        inner.view = View { state, reason, changed_ns: now_ns, ..inner.view };
        self.tell(inner);
    }

    fn tell(&self, inner: &Inner) {
        let passes = match inner.view.mode {
            Mode::HeldOpen => false,
            Mode::HeldClosed => true,
            Mode::Auto => inner.view.state == State::Closed,
        };
        self.passes.store(passes, Ordering::Relaxed);
    }
}

impl State {
    /// Whether requests are refused.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// The state's display name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
    }
}

impl View {
    /// The display name of the effective state, which an operator may have set.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.mode {
            Mode::Auto => self.state.name(),
            Mode::HeldOpen => "open",
            Mode::HeldClosed => "closed",
        }
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.mode, self.reason) {
            (Mode::HeldOpen, _) => f.write_str("held open by an operator"),
            (Mode::HeldClosed, _) => f.write_str("held closed by an operator"),
            (_, Reason::Started) => f.write_str("nothing has happened yet"),
            (_, Reason::FailuresInARow(number)) => write!(f, "{number} failures in a row"),
            (_, Reason::FailedOf(failed, all)) => write!(f, "{failed} of the last {all} requests failed"),
            (_, Reason::ProbeFailed) => f.write_str("a probe failed"),
            (_, Reason::TimeToProbe) => f.write_str("it was open for its time"),
            (_, Reason::ProbesSucceeded) => f.write_str("its probes succeeded"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPEN: u64 = 1_000;

    fn settings(failures: u32, ratio: f64, probes: u32) -> Settings {
        Settings { failures, ratio, window_ns: 10_000, minimum: 10, open_ns: OPEN, probes }
    }

    /// A request in flight, and when it ends.
    type UnderWay = (u64, Pass, bool);

    proptest! {
        /// Requests that overlap, with any outcome and any length.
        #[test]
        fn whatever_happens_the_states_keep_their_promises(
            failures in 1u32..6, probes in 1u32..4,
            arrivals in prop::collection::vec((0u64..400, 1u64..900, 0u8..10), 1..400),
        ) {
            let breaker = Breaker::new(settings(failures, 2.0, probes), 0);
            let (mut now, mut under_way) = (0, Vec::<UnderWay>::new());
            for (gap, lasts, outcome) in arrivals {
                now += gap;
                under_way.sort_by_key(|each| each.0);
                while let Some((ends, pass, good)) = under_way.first().copied().filter(|each| each.0 <= now) {
                    under_way.remove(0);
                    let before = breaker.view();
                    match (good, outcome) {
                        (_, 9) => breaker.forget(pass),
                        (true, _) => breaker.success(pass, ends),
                        (false, _) => breaker.failure(pass, ends),
                    }
                    let after = breaker.view();
                    // A request that isn't a probe never closes it, and opens it only if it is closed.
                    if pass == Pass::Free && before.state != State::Closed {
                        prop_assert_eq!(before, after);
                    }
                    if let (State::Open { until_ns }, true) = (after.state, after != before) {
                        prop_assert_eq!(until_ns, ends + OPEN);
                    }
                }
                let before = breaker.view().state;
                let pass = breaker.admit(now);
                match before {
                    State::Closed => prop_assert_eq!(pass, Some(Pass::Free)),
                    State::Open { until_ns } => prop_assert_eq!(pass.is_some(), now >= until_ns),
                    State::HalfOpen { under_way, succeeded } => {
                        prop_assert_eq!(pass.is_some(), under_way + succeeded < probes);
                    }
                }
                if let State::HalfOpen { under_way, .. } = breaker.view().state {
                    prop_assert!(under_way <= probes);
                }
                if let Some(pass) = pass {
                    under_way.push((now + lasts, pass, outcome < 6));
                }
            }
        }

        /// One request after the other.
        #[test]
        fn so_many_failures_in_a_row_open_it_and_probes_that_succeed_close_it(
            failures in 1u32..6, probes in 1u32..4, outcomes in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let breaker = Breaker::new(settings(failures, 2.0, probes), 0);
            let (mut now, mut in_a_row, mut good_probes) = (0, 0, None::<u32>);
            for good in outcomes {
                now += 1;
                let pass = match breaker.admit(now) {
                    Some(pass) => pass,
                    None => {
                        prop_assert!(breaker.view().state.is_open());
                        now += OPEN;
                        good_probes = Some(0);
                        breaker.admit(now).unwrap()
                    }
                };
                prop_assert_eq!(matches!(pass, Pass::Probe(_)), good_probes.is_some());
                if good { breaker.success(pass, now) } else { breaker.failure(pass, now) }
                in_a_row = if good { 0 } else { in_a_row + 1 };
                let opens = !good && (good_probes.is_some() || in_a_row >= failures);
                if opens {
                    prop_assert!(breaker.view().state.is_open());
                    (in_a_row, good_probes) = (0, None);
                } else if let Some(number) = &mut good_probes {
                    *number += 1;
                    if *number == probes {
                        prop_assert_eq!(breaker.view().state, State::Closed);
                        good_probes = None;
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_that_fails_opens_it_once_there_are_enough_requests() {
        let breaker = Breaker::new(settings(1_000, 0.5, 1), 0);
        for now in 0..9 {
            let pass = breaker.admit(now).unwrap();
            if now % 2 == 0 { breaker.failure(pass, now) } else { breaker.success(pass, now) }
        }
        assert_eq!(breaker.view().state, State::Closed);
        breaker.success(Pass::Free, 9);
        breaker.failure(Pass::Free, 10);
        assert_eq!(breaker.view().reason, Reason::FailedOf(6, 11));
        assert_eq!(breaker.view().to_string(), "6 of the last 11 requests failed");
        assert_eq!(breaker.admit(11), None);
    }

    #[test]
    fn failures_of_long_ago_do_not_count() {
        let breaker = Breaker::new(settings(1_000, 0.5, 1), 0);
        for now in 0..9 {
            breaker.failure(Pass::Free, now);
        }
        breaker.success(Pass::Free, 20_000);
        breaker.failure(Pass::Free, 20_001);
        assert_eq!(breaker.view().state, State::Closed);
    }

    #[test]
    fn an_operator_holds_it_and_lets_go() {
        let breaker = Breaker::new(settings(1, 2.0, 1), 0);
        breaker.hold(Mode::HeldOpen, 5);
        assert_eq!((breaker.admit(5 + 10 * OPEN), breaker.view().name()), (None, "open"));
        breaker.hold(Mode::HeldClosed, 6);
        for now in 7..100 {
            let pass = breaker.admit(now);
            assert_eq!(pass, Some(Pass::Free));
            breaker.failure(Pass::Free, now);
        }
        assert_eq!(breaker.view().to_string(), "held closed by an operator");
        breaker.hold(Mode::Auto, 100);
        assert_eq!((breaker.admit(100), breaker.view().name()), (None, "open"));
        assert_eq!(breaker.view().changed_ns, 100);
    }
}
