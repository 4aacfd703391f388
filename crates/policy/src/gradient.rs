//! Adaptive concurrency: the limit of a service, derived from its latency.
//!
//! As long as a service has room, a request takes as long as ever; once it is full, each further
//! one makes all of them wait. So the limit follows the gradient of latency, the latency of an unloaded
//! service over the present one: `limit = gradient * limit + sqrt(limit)`, once in each window. Far below
//! one, there is a queue in the service, and the limit shrinks by that much; near one, it grows by a
//! little, to find out whether there is more room. It settles where both are the same, at a latency of
//! about `(1 + TOLERANCE) / (1 - 1 / sqrt(limit))` of the unloaded one.
//!
//! The unloaded latency is the lowest mean of a window. A service may become slower for good, and under
//! load that lasts nobody sees it unloaded. So every now and then half as many as were under way are let
//! in, until those from before have ended and for a window more. If that one shows that latency fell,
//! there was a queue and there may still be one, and the half is halved again; if not, this is the new
//! baseline. Without that, a limit that compares with an average of the past drifts up under load that lasts.
//!
//! Sources: the gradient limits of Netflix's concurrency-limits (2018); the adaptive concurrency
//! filter of Envoy, which measures its minimum anew in the same way; BBR (Cardwell et al., 2016) for
//! the probe.

use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// What a latency may be above the unloaded one before the limit shrinks: noise, and requests that
/// differ.
const TOLERANCE: f64 = 0.25;
/// In one window a limit shrinks to half at most.
const STEEPEST: f64 = 0.5;
/// A window is at least this long, and has at least so many answers: fewer say little of a mean.
const WINDOW_NS: u64 = 100_000_000;
const SAMPLES: u64 = 20;
/// The baseline is measured anew after this time.
const PROBE_EVERY_NS: u64 = 15_000_000_000;
/// For the first time earlier: a gateway may start under load.
const FIRST_PROBE_NS: u64 = 1_000_000_000;
/// Latency that falls to less than this part when the limit is halved was that of a queue: with
/// one it falls to about half, without one not at all, and what is between is noise, for which it is
/// better to look once more.
const FALLS: f64 = 0.9;
/// A limit grows once so much of it was used.
const USED: f64 = 0.9;
/// Where a limit begins: it doubles in about a second if there is room.
const FIRST: usize = 20;

/// A limit between two bounds, and what the present window has seen.
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

/// The limit is another one for a while.
#[derive(Clone, Copy)]
struct Probe {
    limit: usize,
    /// What was under way before has ended by then.
    measures_at_ns: u64,
    /// Whether the present window is one that counts.
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

    /// The limit as of now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.allowed(&lock(&self.state))
    }

    /// The latency that counts as unloaded, in nanoseconds; 0 if none is known yet.
    #[must_use]
    pub fn baseline_ns(&self) -> u64 {
        lock(&self.state).baseline_ns as u64
    }

    /// A request took `took_ns`, and was one of `in_flight` at its end. A new limit, if this was the
    /// last request of a window.
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
        // A limit that nobody reaches says nothing of whether another one would do.
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
