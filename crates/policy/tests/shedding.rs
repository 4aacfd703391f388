//! Overload, simulated: a backend with so many servers behind an `Admission`, tiers that ask for more
//! than there is, and what each of them gets. Also what a limit by gradient makes of a backend that
//! gets slower the more it has to do.

mod overload;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use counterfoil_policy::admission::{Admission, Wait, patience_ns};
use counterfoil_policy::gradient::Gradient;
use overload::{Fate, MS, PATIENCE, Random, SERVICE, TIERS, overload};
use proptest::prelude::*;

fn p99(fate: &Fate) -> u64 {
    let mut took = fate.took.clone();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn at_twice_the_capacity_gold_notices_nothing_and_bronze_is_refused_at_once(
        seed in any::<u64>(), servers in 8usize..64, gold in 0.1f64..0.6,
    ) {
        let bronze = (2.0 - gold) / 2.0;
        let loads = [gold, 2.0 - gold - bronze, bronze];
        let [during, after] = overload(seed, servers, loads, 2_000 * MS);
        prop_assert!(during[0].success() >= 0.99, "gold: {}", during[0].success());
        prop_assert!(p99(&during[0]) <= 2 * SERVICE, "gold took {} ns", p99(&during[0]));
        prop_assert!(during[2].success() < 0.6, "bronze: {}", during[2].success());
        prop_assert!(during[2].refused_after.iter().all(|waited| *waited == 0));
        // The servers are never idle while somebody is refused, so as much is served as can be.
        let served: usize = during.iter().map(|fate| fate.took.len()).sum();
        prop_assert!(served as f64 >= 0.95 * servers as f64 * 2_000.0 / 10.0);
        // As soon as it is over, it is over: what is still refused of Bronze at half the load are
        // the moments in which all servers are busy.
        for (fate, least) in after.iter().zip([0.99, 0.99, 0.8]) {
            prop_assert!(fate.success() >= least, "{}", fate.success());
        }
    }

    #[test]
    fn whatever_comes_everybody_is_answered_or_refused_in_time(
        seed in any::<u64>(), servers in 1usize..5, loads in prop::array::uniform3(0.0f64..4.0),
    ) {
        let [during, after] = overload(seed, servers, loads, 500 * MS);
        for (tier, fate) in during.iter().chain(&after).enumerate() {
            let patience = patience_ns(tier % TIERS, TIERS, PATIENCE);
            prop_assert!(fate.refused_after.iter().all(|waited| *waited <= patience));
            prop_assert!(fate.took.iter().all(|took| *took <= patience + SERVICE));
        }
    }
}

#[test]
fn a_full_queue_sends_away_the_newest_of_its_lowest_tier() {
    let admission = Admission::new(1, 2);
    assert!(admission.enter());
    assert!(matches!(admission.wait(1, "silver 1"), Wait::Waits { pushed_out: None, .. }));
    assert!(matches!(admission.wait(1, "silver 2"), Wait::Waits { pushed_out: None, .. }));
    assert!(matches!(admission.wait(1, "silver 3"), Wait::Refused));
    assert!(matches!(admission.wait(0, "gold"), Wait::Waits { pushed_out: Some("silver 2"), .. }));
    assert!(!admission.enter());
    assert_eq!(
        [admission.leave(), admission.leave(), admission.leave()],
        [Some("gold"), Some("silver 1"), None]
    );
    assert_eq!(admission.in_flight(), 0);
}

#[test]
fn more_places_wake_as_many_and_fewer_let_who_is_in_finish() {
    let admission = Admission::new(1, 8);
    assert!(admission.enter());
    for name in ["a", "b", "c"] {
        assert!(matches!(admission.wait(0, name), Wait::Waits { admitted: None, .. }));
    }
    admission.set_limit(3);
    assert_eq!([admission.fill(), admission.fill(), admission.fill()], [Some("a"), Some("b"), None]);
    admission.set_limit(1);
    assert_eq!([admission.leave(), admission.leave(), admission.leave()], [None, None, Some("c")]);
}

/// A backend that serves `servers` at once and lets the others share: latency grows with what is in
/// it. Closed loop: `clients` ask again as soon as they are answered or refused. The median limit of the
/// second half of each phase: for moments there is a lower one, to measure.
fn follow(gradient: &Gradient, clients: usize, phases: &[(usize, u64)], seed: u64) -> Vec<usize> {
    let (mut random, mut now, mut in_flight) = (Random(seed), 0u64, 0usize);
    let (mut leaving, mut ends) = (BinaryHeap::new(), 0);
    let mut settled = Vec::new();
    for (servers, lasts) in phases {
        ends += lasts;
        let mut limits = Vec::new();
        while now < ends {
            while in_flight < gradient.limit().min(clients) {
                in_flight += 1;
                let crowd = (in_flight as f64 / *servers as f64).max(1.0);
                let took = SERVICE as f64 * crowd * (0.8 + 0.4 * random.uniform());
                leaving.push(Reverse((now + took as u64, now)));
            }
            let Some(Reverse((at, since))) = leaving.pop() else { break };
            now = at;
            let limit = gradient.record(now - since, in_flight, now);
            limits.extend(limit.filter(|_| now > ends - lasts / 2));
            in_flight -= 1;
        }
        limits.sort_unstable();
        settled.push(limits[limits.len() / 2]);
    }
    settled
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) })]

    #[test]
    fn a_limit_settles_near_what_the_backend_can_do_and_follows_it_down_and_up(
        seed in any::<u64>(), servers in 6usize..60,
    ) {
        let gradient = Gradient::new(2, 1_000);
        let phases = [(servers, 20_000 * MS), (servers / 3, 20_000 * MS), (servers, 20_000 * MS)];
        for (limit, (servers, _)) in follow(&gradient, 500, &phases, seed).into_iter().zip(phases) {
            let (least, most) = (servers * 7 / 10, servers * 2 + 6);
            prop_assert!((least..=most).contains(&limit), "{limit} for {servers} servers");
        }
    }

    #[test]
    fn a_limit_that_nobody_reaches_does_not_grow(seed in any::<u64>()) {
        let gradient = Gradient::new(2, 1_000);
        let settled = follow(&gradient, 5, &[(100, 20_000 * MS)], seed);
        prop_assert!(settled[0] <= 20, "{}", settled[0]);
    }
}
