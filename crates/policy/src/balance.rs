//! Load balancing by two random choices: two instances are drawn, and the one with less load is taken
//! (Mitzenmacher, "The power of two choices in randomized load balancing", 1996).
//!
//! During slow start the chance that a new instance is drawn grows from a tenth to one, so that it warms up
//! whatever load the others have. An instance taken out by health checks isn't drawn. One with an open
//! breaker is, since only a request can show that it has recovered; the other of the two comes next, so that
//! the requests that the breaker refuses are spread over all others. If too few healthy instances are left to
//! carry the load, all are drawn: below the panic share the fault probably isn't theirs, and some of those
//! taken out may help where the rest alone would be overrun.

use crate::sync::{AtomicU64, Ordering};

/// The relative chance of a new instance to be drawn at the start of its slow start.
const FIRST_CHANCE: f64 = 0.1;
/// Time constant: after it, an observed latency has a weight of about a third.
const DECAY_NS: f64 = 10e9;

/// An instance, as the balancer sees it.
pub trait Candidate {
    /// Its load: requests in flight, or the time that they will take.
    fn load(&self, now_ns: u64) -> f64;

    /// Time since it was discovered or recovered.
    fn age_ns(&self, now_ns: u64) -> u64;

    /// Whether its breaker and its health checks let all requests pass.
    fn is_healthy(&self) -> bool;

    /// Whether its health checks have taken it out.
    fn is_out(&self) -> bool;
}

impl<C: Candidate> Candidate for std::sync::Arc<C> {
    fn load(&self, now_ns: u64) -> f64 {
        (**self).load(now_ns)
    }

    fn age_ns(&self, now_ns: u64) -> u64 {
        (**self).age_ns(now_ns)
    }

    fn is_healthy(&self) -> bool {
        (**self).is_healthy()
    }

    fn is_out(&self) -> bool {
        (**self).is_out()
    }
}

/// Settings of the balancer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// 0 disables slow start.
    pub slow_start_ns: u64,
    /// 0 disables panics.
    pub panic_share: f64,
}

/// The order in which to try the candidates: the better of the two drawn, the other, then the rest; and
/// whether there is a panic, in which breakers and health checks are ignored.
///
/// `random` returns numbers from 0 up to, but not including, 1.
pub fn order<C: Candidate>(
    candidates: &[C],
    settings: Settings,
    now_ns: u64,
    mut random: impl FnMut() -> f64,
) -> (impl Iterator<Item = &C> + Clone, bool) {
    let number = candidates.len();
    let panics = settings.panic_share > 0.0 && {
        let healthy = candidates.iter().filter(|each| each.is_healthy()).count();
        (healthy as f64) < settings.panic_share * number as f64
    };
    let (mut one, mut other) = two(number, |place| &candidates[place], settings, now_ns, &mut random);
    let is_out = |place: usize| candidates.get(place).is_some_and(C::is_out);
    if !panics && (is_out(one) || is_out(other)) {
        let left: Vec<usize> = (0..number).filter(|place| !is_out(*place)).collect();
        if !left.is_empty() {
            let drawn = two(left.len(), |place| &candidates[left[place]], settings, now_ns, &mut random);
            (one, other) = (left[drawn.0], left[drawn.1]);
        }
    }
    (Order { candidates, one, other, step: 0 }, panics)
}

/// Iterates over candidates in the order to try them. Nearly always only the first is used.
struct Order<'a, C> {
    candidates: &'a [C],
    one: usize,
    other: usize,
    step: usize,
}

impl<C> Clone for Order<'_, C> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'a, C> Iterator for Order<'a, C> {
    type Item = &'a C;

    #[inline]
    fn next(&mut self) -> Option<&'a C> {
        let number = self.candidates.len();
        while self.step <= number {
            let step = self.step;
            self.step += 1;
            match step {
                0 => return self.candidates.get(self.one),
                1 if self.other != self.one => return self.candidates.get(self.other),
                1 => {}
                // After the two, once around starting from the first.
                _ => {
                    let place = (self.one + step - 1) % number;
                    if place != self.other {
                        return self.candidates.get(place);
                    }
                }
            }
        }
        None
    }
}

/// Two indexes drawn from `number`, the one with less load first; the same twice if there is only one.
fn two<'a, C: Candidate + 'a>(
    number: usize,
    at: impl Fn(usize) -> &'a C,
    settings: Settings,
    now_ns: u64,
    random: &mut impl FnMut() -> f64,
) -> (usize, usize) {
    if number < 2 {
        return (0, 0);
    }
    let one = draw(number, &at, None, settings, now_ns, random);
    let other = draw(number, &at, Some(one), settings, now_ns, random);
    if at(other).load(now_ns) < at(one).load(now_ns) { (other, one) } else { (one, other) }
}

/// Draw one of at least two indexes, other than `but`.
fn draw<'a, C: Candidate + 'a>(
    number: usize,
    at: &impl Fn(usize) -> &'a C,
    but: Option<usize>,
    settings: Settings,
    now_ns: u64,
    random: &mut impl FnMut() -> f64,
) -> usize {
    let others = number - usize::from(but.is_some());
    let any = |random: &mut dyn FnMut() -> f64| {
        let drawn = ((random() * others as f64) as usize).min(others - 1);
        // Indexes from `but` on shift by one.
        drawn + usize::from(but.is_some_and(|but| drawn >= but))
    };
    let drawn = any(random);
    if settings.slow_start_ns == 0 {
        return drawn;
    }
    let warmth = at(drawn).age_ns(now_ns) as f64 / settings.slow_start_ns as f64;
    if warmth >= 1.0 || random() < warmth.max(FIRST_CHANCE) { drawn } else { any(random) }
}

/// The latency of an instance as a peak EWMA, which follows peaks at once and decays slowly. The cost of one
/// more request is the latency times the requests in flight (Finagle's peak EWMA).
#[derive(Default)]
pub struct PeakEwma {
    latency_ns: AtomicU64,
    at_ns: AtomicU64,
}

impl PeakEwma {
    /// Record a request's duration. Of two concurrent records one may be lost.
    pub fn record(&self, took_ns: u64, now_ns: u64) {
        let since = now_ns.saturating_sub(self.at_ns.swap(now_ns, Ordering::Relaxed));
        let known = self.latency_ns.load(Ordering::Relaxed) as f64;
        let keeps = (-(since as f64) / DECAY_NS).exp();
        let took = took_ns as f64;
        let next = if took > known { took } else { known * keeps + took * (1.0 - keeps) };
        self.latency_ns.store(next as u64, Ordering::Relaxed);
    }

    /// The current estimate; 0 before the first request.
    #[must_use]
    pub fn latency_ns(&self) -> u64 {
        self.latency_ns.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy)]
    struct Instance {
        load: f64,
        age_ns: u64,
        healthy: bool,
        out: bool,
    }

    impl Candidate for Instance {
        fn load(&self, _: u64) -> f64 {
            self.load
        }

        fn age_ns(&self, _: u64) -> u64 {
            self.age_ns
        }

        fn is_healthy(&self) -> bool {
            self.healthy && !self.out
        }

        fn is_out(&self) -> bool {
            self.out
        }
    }

    const OLD: Instance = Instance { load: 0.0, age_ns: u64::MAX, healthy: true, out: false };
    const OUT: Instance = Instance { out: true, ..OLD };
    const SETTINGS: Settings = Settings { slow_start_ns: 1_000, panic_share: 0.5 };

    /// Pseudorandom numbers (SplitMix64).
    fn numbers(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn first(instances: &[Instance], random: &mut impl FnMut() -> f64) -> usize {
        let (mut order, _) = order(instances, SETTINGS, 0, random);
        let chosen = order.next().unwrap();
        instances.iter().position(|each| std::ptr::eq(each, chosen)).unwrap()
    }

    proptest! {
        #[test]
        fn two_choices_keep_the_fullest_near_the_mean(seed in any::<u64>(), number in 2usize..40) {
            let (mut instances, mut random) = (vec![OLD; number], numbers(seed));
            for _ in 0..number * 50 {
                let chosen = first(&instances, &mut random);
                instances[chosen].load += 1.0;
            }
            // With one choice the fullest would have some 2 * sqrt(50) more than the mean.
            prop_assert!(instances.iter().all(|each| (40.0..=55.0).contains(&each.load)));
        }

        #[test]
        fn everybody_is_in_the_order_once(
            seed in any::<u64>(),
            out in prop::collection::vec(any::<bool>(), 0..20),
        ) {
            let number = out.len();
            let instances: Vec<_> = out.into_iter().map(|out| Instance { out, ..OLD }).collect();
            let (order, _) = order(&instances, SETTINGS, 0, numbers(seed));
            let mut seen: Vec<_> = order.map(|each| std::ptr::from_ref(each)).collect();
            seen.sort();
            seen.dedup();
            prop_assert_eq!(seen.len(), number);
        }

        #[test]
        fn one_that_is_out_is_never_the_first_unless_there_is_a_panic_or_nobody_else(
            seed in any::<u64>(),
            out in prop::collection::vec(any::<bool>(), 1..20),
            panic_share in 0.0..1.0f64,
        ) {
            let left = out.iter().filter(|out| !**out).count();
            let instances: Vec<_> = out.iter().map(|out| Instance { out: *out, ..OLD }).collect();
            let settings = Settings { panic_share, ..SETTINGS };
            let (mut order, panics) = order(&instances, settings, 0, numbers(seed));
            let first = order.next().unwrap();
            prop_assert_eq!(panics, (left as f64) < panic_share * instances.len() as f64);
            prop_assert!(!first.out || panics || left == 0);
        }
    }

    #[test]
    fn what_one_that_is_out_would_get_is_spread_over_all_others() {
        let (instances, mut random) = ([OLD, OUT, OLD, OLD, OUT], numbers(5));
        let mut asked = [0; 5];
        for _ in 0..30_000 {
            asked[first(&instances, &mut random)] += 1;
        }
        assert!([0, 2, 3].iter().all(|place| (9_500..10_500).contains(&asked[*place])), "{asked:?}");
    }

    #[test]
    fn what_an_open_breaker_refuses_is_spread_over_all_others() {
        // It has no load, so it wins whenever it is drawn.
        let instances = [OLD, Instance { healthy: false, ..OLD }, OLD, OLD];
        let instances = instances.map(|each| Instance { load: f64::from(each.healthy), ..each });
        let (mut random, mut asked) = (numbers(5), [0; 4]);
        for _ in 0..30_000 {
            let (order, _) = order(&instances, Settings { panic_share: 0.0, ..SETTINGS }, 0, &mut random);
            let chosen = order.into_iter().find(|each| each.healthy).unwrap();
            asked[instances.iter().position(|each| std::ptr::eq(each, chosen)).unwrap()] += 1;
        }
        assert!([0, 2, 3].iter().all(|place| (9_500..10_500).contains(&asked[*place])), "{asked:?}");
    }

    #[test]
    fn in_a_panic_those_that_are_out_are_drawn_like_all_others() {
        let (instances, mut random) = ([OUT, OLD, OUT, OUT], numbers(7));
        let mut asked = [0; 4];
        for _ in 0..20_000 {
            asked[first(&instances, &mut random)] += 1;
        }
        assert!(asked.iter().all(|count| (4_600..5_400).contains(count)), "{asked:?}");
    }

    #[test]
    fn a_newcomer_gets_more_from_moment_to_moment() {
        let mut random = numbers(1);
        let mut share = |age_ns: u64| {
            // All have the same load, so being drawn decides.
            let instances = [OLD, OLD, OLD, Instance { age_ns, ..OLD }];
            (0..20_000).filter(|_| first(&instances, &mut random) == 3).count() as f64 / 20_000.0
        };
        let shares = [share(0), share(500), share(1_000)];
        assert!(shares[0] < 0.12 && shares[0] > 0.01, "{shares:?}");
        assert!(shares[0] < shares[1] && shares[1] < shares[2], "{shares:?}");
        assert!((shares[2] - 0.25).abs() < 0.02, "{shares:?}");
    }

    #[test]
    fn there_is_a_panic_when_too_few_are_left() {
        let broken = Instance { healthy: false, ..OLD };
        let panics = |instances: &[Instance]| order(instances, SETTINGS, 0, || 0.0).1;
        assert!(!panics(&[OLD, broken]) && panics(&[OLD, broken, broken]));
        assert!(!order(&[broken], Settings { panic_share: 0.0, ..SETTINGS }, 0, || 0.0).1);
    }

    #[test]
    fn latency_follows_a_peak_at_once_and_forgets_it_slowly() {
        let ewma = PeakEwma::default();
        ewma.record(1_000, 0);
        ewma.record(50_000, 1);
        assert_eq!(ewma.latency_ns(), 50_000);
        ewma.record(1_000, 2);
        assert!(ewma.latency_ns() > 49_000);
        ewma.record(1_000, 30_000_000_000);
        assert!(ewma.latency_ns() < 4_000);
    }
}
