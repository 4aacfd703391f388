//! What each algorithm lets pass around the end of a window and in any span of one: the claims in
//! the headers of the algorithms, and in docs/limits.md.

use counterfoil_policy::fixed_window::FixedWindow;
use counterfoil_policy::gcra::{Decision, Gcra};
use counterfoil_policy::keyed::{Keyed, Rule};
use counterfoil_policy::sliding_counter::SlidingCounter;
use counterfoil_policy::sliding_log::SlidingLog;
use proptest::prelude::*;

const WINDOW: u64 = 1_000_000_000;
const KEY: &str = "key";

/// When requests at these times pass.
fn passed(check: impl Fn(&str, u64) -> Decision, times: &[u64]) -> Vec<u64> {
    times.iter().copied().filter(|now| check(KEY, *now) == Decision::Allowed).collect()
}

/// The most that passed in any span of `span`, and when that span ended.
fn most_in_any(span: u64, passed: &[u64]) -> (usize, u64) {
    passed
        .iter()
        .enumerate()
        .map(|(last, end)| (passed[..=last].iter().filter(|each| *each + span > *end).count(), *end))
        .max()
        .unwrap_or((0, 0))
}

/// The worst case: nothing for a window and more, then as much as possible around the end of one.
fn greedy() -> Vec<u64> {
    let (from, to) = (2 * WINDOW - WINDOW / 100, 2 * WINDOW + WINDOW / 100);
    (from..=to).step_by(10_000).collect()
}

#[test]
fn a_fixed_window_lets_twice_its_limit_pass_around_its_end_and_the_others_do_not() {
    let (limit, seconds) = (100u32, WINDOW as f64 / 1e9);
    let fixed = Keyed::new(FixedWindow { requests: limit, window_ns: WINDOW }, 16);
    let counter = Keyed::new(SlidingCounter { requests: limit, window_ns: WINDOW }, 16);
    let log = Keyed::new(SlidingLog { requests: limit, window_ns: WINDOW }, 16);
    let gcra = Gcra::new(f64::from(limit) / seconds, limit, 16);
    let around_the_end = [
        passed(|key, now| fixed.check(key, now), &greedy()).len(),
        passed(|key, now| counter.check(key, now), &greedy()).len(),
        passed(|key, now| log.check(key, now), &greedy()).len(),
        passed(|key, now| gcra.check(key, now), &greedy()).len(),
    ];
    // The span is 2% of a window: the counter forgets 1% of its last one meanwhile, GCRA earns 2%.
    assert_eq!(around_the_end, [200, 101, 100, 102]);
}

fn arrivals() -> impl Strategy<Value = Vec<u64>> {
    // Bursts and pauses, up to several windows long.
    prop::collection::vec((0u64..2 * WINDOW, 1usize..40, 0u64..20_000_000), 1..30).prop_map(|bursts| {
        let (mut now, mut times) = (0, Vec::new());
        for (pause, number, gap) in bursts {
            now += pause;
            for _ in 0..number {
                now += gap;
                times.push(now);
            }
        }
        times
    })
}

/// A request that is refused passes after the time it was told, and not a moment before.
fn tells_the_truth<R: Rule + Clone>(rule: &R, times: &[u64]) -> Result<(), TestCaseError>
where
    R::Account: Clone,
{
    let mut account = rule.open(times[0]);
    for now in times {
        let left = rule.left(&account, *now);
        match rule.check(&mut account, *now) {
            Decision::Allowed => prop_assert!(left.requests > 0),
            Decision::Refused { retry_after_ns } => {
                prop_assert_eq!(left.requests, 0);
                prop_assert!(retry_after_ns > 0);
                prop_assert_eq!(rule.check(&mut account.clone(), now + retry_after_ns), Decision::Allowed);
                let sooner = rule.check(&mut account.clone(), now + retry_after_ns - 1);
                prop_assert_ne!(sooner, Decision::Allowed);
            }
        }
    }
    let idle = rule.idle_at_ns(&account);
    prop_assert_eq!(rule.left(&account, idle).requests, rule.left(&rule.open(idle), idle).requests);
    Ok(())
}

proptest! {
    #[test]
    fn the_log_never_lets_more_than_its_limit_pass_in_any_window(times in arrivals(), requests in 1u32..30) {
        let log = Keyed::new(SlidingLog { requests, window_ns: WINDOW }, 16);
        let passed = passed(|key, now| log.check(key, now), &times);
        prop_assert!(most_in_any(WINDOW, &passed).0 <= requests as usize);
    }

    #[test]
    fn the_fixed_window_lets_at_most_twice_its_limit_pass(times in arrivals(), requests in 1u32..30) {
        let fixed = Keyed::new(FixedWindow { requests, window_ns: WINDOW }, 16);
        let passed = passed(|key, now| fixed.check(key, now), &times);
        prop_assert!(most_in_any(WINDOW, &passed).0 <= 2 * requests as usize);
    }

    #[test]
    fn the_counter_stays_within_its_stated_error(times in arrivals(), requests in 1u32..30) {
        let counter = Keyed::new(SlidingCounter { requests, window_ns: WINDOW }, 16);
        let passed = passed(|key, now| counter.check(key, now), &times);
        for (last, end) in passed.iter().enumerate() {
            let (inside, part) = (
                passed[..=last].iter().filter(|each| *each + WINDOW > *end).count(),
                (end % WINDOW) as f64 / WINDOW as f64,
            );
            prop_assert!(inside as f64 <= f64::from(requests) * (1.0 + part) + 1e-6);
        }
    }

    #[test]
    fn who_is_refused_is_told_exactly_when_to_come_back(times in arrivals(), requests in 1u32..30) {
        tells_the_truth(&FixedWindow { requests, window_ns: WINDOW }, &times)?;
        tells_the_truth(&SlidingCounter { requests, window_ns: WINDOW }, &times)?;
        tells_the_truth(&SlidingLog { requests, window_ns: WINDOW }, &times)?;
    }

    #[test]
    fn even_traffic_of_one_less_than_the_limit_passes_the_counter_whole(
        requests in 2u32..200, start in 0u64..WINDOW,
    ) {
        let counter = Keyed::new(SlidingCounter { requests, window_ns: WINDOW }, 16);
        let gap = WINDOW.div_ceil(u64::from(requests) - 1);
        let times: Vec<_> = (0..1_000).map(|number| start + number * gap).collect();
        prop_assert_eq!(passed(|key, now| counter.check(key, now), &times).len(), times.len());
    }
}

#[test]
fn keys_beyond_the_capacity_are_told_when_there_is_room() {
    let log = Keyed::new(SlidingLog { requests: 3, window_ns: WINDOW }, 1_600);
    let mut told = None;
    for number in 0..100_000u64 {
        if let Decision::Refused { retry_after_ns } = log.check(&number.to_string(), number) {
            told.get_or_insert((number, retry_after_ns));
        }
    }
    assert!(log.keys() <= 1_600);
    let (number, retry_after_ns) = told.unwrap();
    assert_eq!(log.check(&number.to_string(), number + retry_after_ns), Decision::Allowed);
}
