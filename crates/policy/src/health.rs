//! Active health checks: the state of one instance, derived from the outcomes of its probes.
//!
//! An instance is taken out after several consecutive failures and let in again after several consecutive
//! successes, so that a single lost probe changes nothing. The very first probe decides alone: an unknown
//! instance has no good record to outweigh a failure, and a newly started gateway must not keep sending
//! requests for several intervals to an instance that other gateways have taken out. Until its first probe an
//! instance gets requests, since discovery has listed it.
//!
//! Breakers are independent. A breaker counts outcomes of requests, and probes aren't requests: neither opens
//! or closes the other, and an instance gets requests when both admit it. In a panic, when too few instances
//! are left (`balance`), checks are ignored like breakers: a wrong path in the configuration, or a failed
//! database that all instances share, fails all probes at once, and doesn't distinguish one instance from
//! another.
//!
//! This module also schedules the probes: each interval varies by up to a tenth, so that the probes of many
//! gateways spread out, and missed probes aren't made up for.

use crate::sync::{AtomicBool, Mutex, Ordering, lock};

/// Relative variation of an interval: a tenth spreads out gateways that were started together within some ten
/// probes, and keeps the interval close to its setting.
const JITTER: f64 = 0.1;

/// How often an instance is probed, and how many outcomes decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From the start of one probe to the start of the next.
    pub interval_ns: u64,
    /// Consecutive failures that take it out; at least 1.
    pub failures: u32,
    /// Consecutive successes that let it in again; at least 1.
    pub successes: u32,
}

/// The state of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No probe has ended yet.
    Unchecked,
    Healthy,
    Unhealthy,
}

/// The state as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub state: State,
    /// Number of latest probes in a row that contradict the state.
    pub against: u32,
    pub changed_ns: u64,
}

/// What to do next about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Send a probe, and report its outcome.
    Probe,
    /// Wait until then.
    Wait { until_ns: u64 },
    /// Wait for the outcome of the probe in flight.
    UnderWay,
}

/// The checks of one instance.
pub struct Health {
    settings: Settings,
    out: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    view: View,
    due_ns: u64,
    under_way: bool,
}

impl Health {
    /// Unchecked as of `now_ns`, with the first probe due.
    #[must_use]
    pub fn new(settings: Settings, now_ns: u64) -> Self {
        let view = View { state: State::Unchecked, against: 0, changed_ns: now_ns };
        let inner = Inner { view, due_ns: now_ns, under_way: false };
        Self { settings, out: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    /// Whether the instance is taken out; reads one flag.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// What to do at `now_ns`. `random` is a number from 0 up to, but not including, 1.
    pub fn turn(&self, now_ns: u64, random: f64) -> Turn {
        let mut inner = lock(&self.inner);
        if inner.under_way {
            return Turn::UnderWay;
        }
        if now_ns < inner.due_ns {
            return Turn::Wait { until_ns: inner.due_ns };
        }
        let share = 1.0 - JITTER + 2.0 * JITTER * random;
        inner.due_ns = now_ns.saturating_add((self.settings.interval_ns as f64 * share) as u64);
        inner.under_way = true;
        Turn::Probe
    }

    /// Report the outcome of the probe in flight at `now_ns`; returns the state if it has changed. Ignored if
    /// no probe is in flight.
    pub fn outcome(&self, passed: bool, now_ns: u64) -> Option<State> {
        let mut inner = lock(&self.inner);
        if !std::mem::take(&mut inner.under_way) {
            return None;
        }
        let (said, enough) = match passed {
            true => (State::Healthy, self.settings.successes),
            false => (State::Unhealthy, self.settings.failures),
        };
        if inner.view.state == said {
            inner.view.against = 0;
            return None;
        }
        inner.view.against += 1;
        if inner.view.state != State::Unchecked && inner.view.against < enough {
            return None;
        }
        inner.view = View { state: said, against: 0, changed_ns: now_ns };
        self.out.store(!passed, Ordering::Relaxed);
        Some(said)
    }

    /// The current state.
    #[must_use]
    pub fn view(&self) -> View {
        lock(&self.inner).view
    }
}

impl State {
    /// The state's display name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL_NS: u64 = 1_000;

    fn health(failures: u32, successes: u32) -> Health {
        Health::new(Settings { interval_ns: INTERVAL_NS, failures, successes }, 0)
    }

    /// Probe as soon as it is due, and report the outcome.
    fn probe(health: &Health, passed: bool, now_ns: &mut u64) -> Option<State> {
        if let Turn::Wait { until_ns } = health.turn(*now_ns, 0.5) {
            *now_ns = until_ns;
            assert_eq!(health.turn(*now_ns, 0.5), Turn::Probe);
        }
        health.outcome(passed, *now_ns)
    }

    /// The expected state, computed from all outcomes: the first one decides, and then each run of
    /// contradicting outcomes that is long enough.
    fn expected(outcomes: &[bool], failures: u32, successes: u32) -> State {
        let Some(&first) = outcomes.first() else { return State::Unchecked };
        let mut healthy = first;
        for end in 1..=outcomes.len() {
            let enough = if healthy { failures } else { successes } as usize;
            let tail = &outcomes[end.saturating_sub(enough)..end];
            if tail.len() == enough && tail.iter().all(|passed| *passed != healthy) {
                healthy = !healthy;
            }
        }
        if healthy { State::Healthy } else { State::Unhealthy }
    }

    proptest! {
        #[test]
        fn the_state_is_what_outcomes_in_a_row_say(
            outcomes in prop::collection::vec(any::<bool>(), 0..60),
            failures in 1u32..5,
            successes in 1u32..5,
        ) {
            let (health, mut now_ns) = (health(failures, successes), 0);
            for (number, passed) in outcomes.iter().enumerate() {
                let before = health.view().state;
                let told = probe(&health, *passed, &mut now_ns);
                let view = health.view();
                prop_assert_eq!(view.state, expected(&outcomes[..=number], failures, successes));
                prop_assert_eq!(told, (view.state != before).then_some(view.state));
                prop_assert_eq!(health.is_out(), view.state == State::Unhealthy);
                if told.is_some() {
                    prop_assert_eq!((view.changed_ns, view.against), (now_ns, 0));
                }
            }
        }

        #[test]
        fn one_that_fails_now_and_then_stays_in_and_one_that_answers_now_and_then_stays_out(
            first in any::<bool>(),
            rounds in prop::collection::vec(1usize..3, 1..40),
        ) {
            // Fewer than three against it, then one for it, again and again.
            let (health, mut now_ns) = (health(3, 3), 0);
            probe(&health, first, &mut now_ns);
            for against in rounds {
                for _ in 0..against {
                    prop_assert_eq!(probe(&health, !first, &mut now_ns), None);
                }
                prop_assert_eq!(probe(&health, first, &mut now_ns), None);
            }
            prop_assert_eq!(health.is_out(), !first);
        }

        #[test]
        fn one_probe_is_under_way_at_once_and_they_are_an_interval_apart(
            looks in prop::collection::vec((0u64..700, 0.0..1.0f64, any::<bool>()), 1..200),
        ) {
            let (health, mut now_ns) = (health(3, 2), 0);
            let mut last = None;
            let mut under_way = false;
            for (later, random, ends) in looks {
                now_ns += later;
                match health.turn(now_ns, random) {
                    Turn::Probe => {
                        prop_assert!(!under_way);
                        if let Some(last) = last {
                            prop_assert!(now_ns - last >= INTERVAL_NS * 9 / 10);
                        }
                        (last, under_way) = (Some(now_ns), true);
                    }
                    Turn::Wait { until_ns } => {
                        prop_assert!(!under_way && until_ns > now_ns);
                        prop_assert!(until_ns <= last.unwrap() + INTERVAL_NS * 11 / 10);
                    }
                    Turn::UnderWay => prop_assert!(under_way),
                }
                if ends && under_way {
                    health.outcome(true, now_ns);
                    under_way = false;
                }
            }
        }
    }

    #[test]
    fn an_instance_is_asked_until_its_first_probe_which_decides_alone() {
        let mut now_ns = 0;
        let failing = health(3, 2);
        assert!(!failing.is_out() && failing.view().state == State::Unchecked);
        assert_eq!(probe(&failing, false, &mut now_ns), Some(State::Unhealthy));
        assert_eq!(probe(&failing, true, &mut now_ns), None);
        assert_eq!(failing.view().against, 1);
        assert_eq!(probe(&failing, true, &mut now_ns), Some(State::Healthy));
        assert_eq!(probe(&health(3, 2), true, &mut now_ns), Some(State::Healthy));
    }

    #[test]
    fn an_outcome_of_no_probe_means_nothing() {
        let health = health(1, 1);
        assert_eq!(health.outcome(false, 0), None);
        assert_eq!(health.view().state, State::Unchecked);
    }
}
