//! Adaptive concurrency: the limit of a service, derived from its latency.
//!
//! While a service has capacity to spare, latency stays constant; once it is full, each further request makes
//! all of them wait. So the limit follows the latency gradient, the unloaded latency over the current one,
//! once per window: `limit = gradient * limit + sqrt(limit)`. Far below one, requests queue in the service,
//! and the limit shrinks by that factor; near one, it grows a little, to find out whether there is more
//! capacity. It settles where the two balance, at a latency of about
//! `(1 + TOLERANCE) / (1 - 1 / sqrt(limit))` times the unloaded one.
//!
//! The unloaded latency is the lowest mean of a window. A service may become slower permanently, and under
//! lasting load its unloaded latency can't be observed. So from time to time the limit is halved, to half of
//! the requests in flight, until earlier requests have ended and for one window more. If that window shows
//! that latency fell, there was a queue and may still be one, and the limit is halved again; if not, its mean
//! is the new baseline. Without this probe, a limit that compares with an average of the past drifts up under
//! lasting load.
//!
//! Sources: the gradient limits of Netflix's concurrency-limits (2018); Envoy's adaptive concurrency filter,
//! which remeasures its minimum in the same way; BBR (Cardwell et al., 2016) for the probe.

use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// How far latency may exceed the unloaded one before the limit shrinks: allows for noise and different
/// requests.
const TOLERANCE: f64 = 0.25;
/// A limit shrinks at most to half in one window.
const STEEPEST: f64 = 0.5;
/// Minimum length and number of samples of a window: fewer samples make an unreliable mean.
const WINDOW_NS: u64 = 100_000_000;
const SAMPLES: u64 = 20;
/// The baseline is remeasured after this time.
const PROBE_EVERY_NS: u64 = 15_000_000_000;
/// The first remeasurement comes earlier: a gateway may start under load.
const FIRST_PROBE_NS: u64 = 1_000_000_000;
/// If halving the limit lowers latency to less than this part, there was a queue: with a queue it falls to
/// about half, without one not at all. Values in between are noise, for which it is better to measure once
/// more.
const FALLS: f64 = 0.9;
/// The limit grows only if at least this part of it was used.
const USED: f64 = 0.9;
/// The initial limit: it doubles in about a second if there is capacity.
const FIRST: usize = 20;

/// A limit between two bounds, and the measurements of the current window.
pub struct Gradient {
    least: usize,
    most: usize,
    sum_ns: AtomicU64,
    samples: AtomicU64,
    most_in_flight: AtomicUsize,
    window_ends_ns: AtomicU64,
    state: Mutex<State>,
}

struct State {
    limit: f64,
    /// 0 before the first window.
    baseline_ns: f64,
    probe_at_ns: u64,
    probe: Option<Probe>,
}

/// A temporary limit for remeasuring the baseline.
#[derive(Clone, Copy)]
struct Probe {
    limit: usize,
    /// By then, requests from before the probe have ended.
    measures_at_ns: u64,
    /// Whether the current window counts.
    measures: bool,
    /// The mean at twice this limit.
    before_ns: f64,
}

impl Probe {
    fn new(limit: usize, before_ns: f64, now_ns: u64) -> Self {
        Self { limit, measures_at_ns: now_ns + 2 * before_ns as u64, measures: false, before_ns }
    }
}

impl Gradient {
    /// A limit from `least` to `most`.
    #[must_use]
    pub fn new(least: usize, most: usize) -> Self {
        let most = most.max(1);
        let least = least.clamp(1, most);
        Self {
            least,
            most,
            sum_ns: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            most_in_flight: AtomicUsize::new(0),
            window_ends_ns: AtomicU64::new(0),
            state: Mutex::new(State {
                limit: FIRST.clamp(least, most) as f64,
                baseline_ns: 0.0,
                probe_at_ns: 0,
                probe: None,
            }),
        }
    }

    /// The current limit.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.allowed(&lock(&self.state))
    }

    /// The baseline latency in nanoseconds; 0 if there is none yet.
    #[must_use]
    pub fn baseline_ns(&self) -> u64 {
        lock(&self.state).baseline_ns as u64
    }

    /// Record a request that took `took_ns` and was one of `in_flight` at its end. Returns a new limit if it
    /// was the last request of a window.
    pub fn record(&self, took_ns: u64, in_flight: usize, now_ns: u64) -> Option<usize> {
        self.sum_ns.fetch_add(took_ns, Ordering::Relaxed);
        self.most_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        let samples = self.samples.fetch_add(1, Ordering::Relaxed) + 1;
        let ends = self.window_ends_ns.load(Ordering::Relaxed);
        if now_ns < ends || samples < SAMPLES {
            return None;
        }
        let mut state = lock(&self.state);
        if self.window_ends_ns.load(Ordering::Relaxed) != ends {
            return None; // another thread ended this window
        }
        self.window_ends_ns.store(now_ns + WINDOW_NS, Ordering::Relaxed);
        let samples = self.samples.swap(0, Ordering::Relaxed).max(1);
        let mean = self.sum_ns.swap(0, Ordering::Relaxed) as f64 / samples as f64;
        let most_in_flight = self.most_in_flight.swap(0, Ordering::Relaxed);
        self.end_window(&mut state, mean.max(1.0), most_in_flight, now_ns);
        Some(self.allowed(&state))
    }

    fn end_window(&self, state: &mut State, mean_ns: f64, most_in_flight: usize, now_ns: u64) {
        if let Some(probe) = state.probe {
            state.probe = if !probe.measures {
                Some(Probe { measures: now_ns >= probe.measures_at_ns, ..probe })
            } else if mean_ns < FALLS * probe.before_ns && probe.limit > self.least {
                Some(Probe::new((probe.limit / 2).max(self.least), mean_ns, now_ns))
            } else {
                state.baseline_ns = mean_ns;
                state.probe_at_ns = now_ns + PROBE_EVERY_NS;
                None
            };
            return;
        }
        if state.baseline_ns == 0.0 {
            state.probe_at_ns = now_ns + FIRST_PROBE_NS;
            state.baseline_ns = mean_ns;
        }
        state.baseline_ns = state.baseline_ns.min(mean_ns);
        // A limit that isn't reached reveals nothing about other limits.
        let reached = most_in_flight * 2 > state.limit as usize;
        if reached && now_ns >= state.probe_at_ns {
            let half = (most_in_flight.min(state.limit as usize) / 2).max(self.least);
            state.probe = Some(Probe::new(half, mean_ns, now_ns));
            return;
        }
        let gradient = (state.baseline_ns * (1.0 + TOLERANCE) / mean_ns).clamp(STEEPEST, 1.0);
        let next = state.limit * gradient + state.limit.sqrt();
        if next < state.limit || most_in_flight as f64 >= USED * state.limit.floor() {
            state.limit = next.clamp(self.least as f64, self.most as f64);
        }
    }

    fn allowed(&self, state: &State) -> usize {
        state.probe.map_or(state.limit as usize, |probe| probe.limit)
    }
}
