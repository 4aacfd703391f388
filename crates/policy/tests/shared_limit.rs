//! Simulation of one limit over several nodes: any demand, any delays, clocks that differ, lost
//! exchanges. What holds is derived in the header of `shared_gcra`.

use counterfoil_policy::gcra::Decision;
use counterfoil_policy::shared_gcra::{Advance, SharedGcra};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const KEY: &str = "key";

/// The store's side, as its script does it: one TAT, in the store's own time.
#[derive(Default)]
struct Store(u64);

impl Store {
    fn apply(&mut self, advance: Advance, sent: u64, now: u64, debt_limit: u64) -> u64 {
        let at_least = (now + advance.at_least_ns).saturating_sub(sent);
        let advanced = Advance { at_least_ns: at_least, ..advance }.apply(self.0);
        self.0 = advanced.min(now + debt_limit);
        self.0.saturating_sub(now)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    RequestLost,
    AnswerLost,
}

struct Exchange {
    taken: Option<Advance>,
    sent: u64,
    executed_at: u64,
    answered_at: u64,
    fate: Fate,
    debt: Option<u64>,
}

struct Node {
    cells: SharedGcra,
    /// What this node's clock is ahead of time.
    ahead: u64,
    next: u64,
    under_way: Option<Exchange>,
    told_at: u64,
    /// The longest time between two exchanges that succeeded.
    longest: u64,
}

#[derive(Debug, Clone)]
struct Run {
    nodes: usize,
    rate: f64,
    burst: u32,
    every: u64,
    /// An exchange takes at most this long.
    most: u64,
    /// Requests of each node in each millisecond, for so many of them.
    demand: Vec<(u64, [u8; 4])>,
    delays: Vec<(f64, f64)>,
    fates: Vec<Fate>,
    /// When the store comes up empty, in milliseconds.
    forgets: Option<u64>,
}

struct Outcome {
    admitted: Vec<u64>,
    longest: u64,
    ended: u64,
}

fn simulate(run: &Run) -> Outcome {
    let store_ahead = 3_600_000 * MS;
    let mut store = Store::default();
    let mut nodes: Vec<_> = (0..run.nodes as u64)
        .map(|number| Node {
            cells: SharedGcra::new(run.rate, run.burst, 1_000),
            ahead: number * 10_000 * MS,
            next: number * run.every / run.nodes as u64,
            under_way: None,
            told_at: 0,
            longest: 0,
        })
        .collect();
    let mut exchanges = 0;
    let (mut now, mut admitted) = (0, Vec::new());
    for (span, demand) in &run.demand {
        for _ in 0..*span {
            now += MS;
            if run.forgets == Some(now / MS) {
                store = Store::default();
            }
            for (node, requests) in nodes.iter_mut().zip(demand) {
                for _ in 0..*requests {
                    if node.cells.check(KEY, now + node.ahead) == Decision::Allowed {
                        admitted.push(now);
                    }
                }
            }
            for node in &mut nodes {
                step(node, run, &mut store, store_ahead, &mut exchanges, now);
            }
        }
    }
    let longest = nodes.iter().map(|node| node.longest.max(now - node.told_at)).max().unwrap_or(0);
    Outcome { admitted, longest, ended: now }
}

fn step(node: &mut Node, run: &Run, store: &mut Store, store_ahead: u64, exchanges: &mut usize, now: u64) {
    if let Some(exchange) = &mut node.under_way {
        if now >= exchange.executed_at && exchange.debt.is_none() && exchange.fate != Fate::RequestLost {
            let sent = exchange.sent + node.ahead;
            let debt = exchange
                .taken
                .map_or(0, |taken| store.apply(taken, sent, now + store_ahead, node.cells.debt_limit_ns()));
            exchange.debt = Some(debt);
        }
        if now < exchange.answered_at {
            return;
        }
        if exchange.fate == Fate::Arrives {
            node.longest = node.longest.max(exchange.sent - node.told_at);
            node.told_at = exchange.sent;
            if exchange.taken.is_some() {
                node.cells.told(KEY, exchange.sent + node.ahead, exchange.debt.unwrap());
            }
        } else if let Some(taken) = exchange.taken {
            node.cells.lost(KEY, taken);
        }
        node.under_way = None;
    }
    if now >= node.next {
        node.next = now + run.every;
        let (out, back) = run.delays[*exchanges % run.delays.len()];
        let executed_at = now + (run.most as f64 * out / 2.0) as u64;
        node.under_way = Some(Exchange {
            taken: node.cells.take().pop().map(|(_, taken)| taken),
            sent: now,
            executed_at,
            answered_at: executed_at + (run.most as f64 * back / 2.0) as u64,
            fate: run.fates[*exchanges % run.fates.len()],
            debt: None,
        });
        *exchanges += 1;
    }
}

/// The most by which any span had more than `rate * t`.
fn beyond_the_rate(admitted: &[u64], rate: f64) -> f64 {
    let mut lowest = f64::INFINITY;
    let mut most: f64 = 0.0;
    for (index, at) in admitted.iter().enumerate() {
        let ahead = index as f64 - rate * *at as f64 / 1e9;
        lowest = lowest.min(ahead);
        most = most.max(ahead - lowest + 1.0);
    }
    most
}

fn runs(fates: impl Strategy<Value = Vec<Fate>>) -> impl Strategy<Value = Run> {
    let requests = prop_oneof![3 => Just(0u8), 2 => Just(1u8), 1 => Just(100u8)];
    let demand = prop::collection::vec((1u64..300, prop::array::uniform4(requests)), 1..12);
    let delays = prop::collection::vec((0.0..1.0, 0.0..1.0), 1..20);
    (1usize..=4, 1u32..2_000, 1u32..100, (5 * MS)..(100 * MS), (2 * MS)..(60 * MS), demand, delays, fates)
        .prop_map(|(nodes, rate, burst, every, most, demand, delays, fates)| Run {
            nodes,
            rate: f64::from(rate),
            burst,
            every,
            most,
            demand,
            delays,
            fates,
            forgets: None,
        })
}

fn bound(run: &Run, window: u64) -> f64 {
    let nodes = run.nodes as f64;
    nodes * f64::from(run.burst) + nodes * run.rate * window as f64 / 1e9 + 1e-6
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn admissions_told_together_advance_as_one_by_one(
        gaps in prop::collection::vec(0u64..1_000, 1..50), interval in 1u64..500,
        tat in 0u64..20_000, cut in 0usize..50,
    ) {
        let (mut now, mut one_by_one) = (0, tat);
        let (mut first, mut second) = (Advance::default(), Advance::default());
        for (number, gap) in gaps.into_iter().enumerate() {
            now += gap;
            one_by_one = one_by_one.max(now) + interval;
            let half = if number < cut { &mut first } else { &mut second };
            *half = half.then(Advance::admission(now, interval));
        }
        prop_assert_eq!(first.then(second).apply(tat), one_by_one);
    }

    #[test]
    fn all_nodes_together_stay_within_the_bound(run in runs(Just(vec![Fate::Arrives]))) {
        let outcome = simulate(&run);
        // A tick is a part of each delay here: what is due is done at the next one.
        let window = run.every + 3 * (run.most + 2 * MS);
        prop_assert!(beyond_the_rate(&outcome.admitted, run.rate) <= bound(&run, window));
    }

    #[test]
    fn lost_exchanges_stretch_the_bound_by_no_more_than_they_took(
        run in runs(prop::collection::vec(
            prop_oneof![Just(Fate::Arrives), Just(Fate::RequestLost), Just(Fate::AnswerLost)], 1..20,
        )),
    ) {
        let outcome = simulate(&run);
        let window = outcome.longest + 3 * (run.most + 2 * MS);
        prop_assert!(beyond_the_rate(&outcome.admitted, run.rate) <= bound(&run, window));
    }

    #[test]
    fn a_store_that_comes_up_empty_lends_once_more(
        run in runs(Just(vec![Fate::Arrives])), at in 1u64..1_000,
    ) {
        let outcome = simulate(&Run { forgets: Some(at), ..run.clone() });
        let window = run.every + 3 * (run.most + 2 * MS);
        prop_assert!(beyond_the_rate(&outcome.admitted, run.rate) <= 2.0 * bound(&run, window));
    }

    #[test]
    fn without_the_store_each_node_is_a_limit_of_its_own(run in runs(Just(vec![Fate::RequestLost]))) {
        let outcome = simulate(&run);
        let nodes = run.nodes as f64;
        let alone = nodes * f64::from(run.burst) + nodes * run.rate * outcome.ended as f64 / 1e9;
        prop_assert!(outcome.admitted.len() as f64 <= alone + 1e-6);
    }

    #[test]
    fn the_long_run_rate_is_exact(
        nodes in 1usize..=4, rate in 20u32..500, burst in 20u32..60, at_first in 1u8..100,
        delays in prop::collection::vec((0.0..1.0, 0.0..1.0), 1..20),
    ) {
        let run = Run {
            nodes, rate: f64::from(rate), burst, every: 50 * MS, most: 20 * MS,
            demand: vec![(1, [at_first; 4]), (20_000, [1; 4])], delays, fates: vec![Fate::Arrives],
            forgets: None,
        };
        let outcome = simulate(&run);
        // What was borrowed at the start was repaid; what may be lent at any time is all that the
        // sum is off by, however long it runs.
        let exact = run.rate * outcome.ended as f64 / 1e9 + f64::from(burst);
        let lent = nodes as f64 * run.rate * (run.every + 3 * run.most) as f64 / 1e9;
        let off = outcome.admitted.len() as f64 - exact;
        prop_assert!(off.abs() <= lent + 2.0, "{} off, {} may be lent", off, lent);
    }
}

#[test]
fn what_is_admitted_while_an_exchange_is_under_way_comes_on_top_of_its_answer() {
    let cells = SharedGcra::new(1.0, 10, 100);
    let retry_after_ns = |now| match cells.check(KEY, now) {
        Decision::Allowed => 0,
        Decision::Refused { retry_after_ns } => retry_after_ns,
    };
    assert_eq!(cells.check(KEY, 0), Decision::Allowed);
    assert_eq!(cells.take().len(), 1);
    assert_eq!(cells.check(KEY, 5 * MS), Decision::Allowed);
    assert_eq!(cells.check(KEY, 6 * MS), Decision::Allowed);
    cells.told(KEY, 0, 8_000 * MS);
    // Eight were owed, two came on top: the next is due when one of the ten is paid.
    assert_eq!(retry_after_ns(7 * MS), 993 * MS);
}

#[test]
fn what_was_lost_is_told_again_before_what_came_after_it() {
    let cells = SharedGcra::new(1.0, 10, 100);
    let first = Advance::admission(0, 1_000 * MS);
    let second = Advance::admission(10_000 * MS, 1_000 * MS);
    assert_eq!(cells.check(KEY, 0), Decision::Allowed);
    let taken = cells.take();
    assert_eq!(cells.check(KEY, 10_000 * MS), Decision::Allowed);
    for (key, advance) in taken {
        cells.lost(&key, advance);
    }
    assert_eq!(cells.take(), vec![(KEY.into(), first.then(second))]);
}

#[test]
fn a_store_that_forgot_everything_does_not_make_a_node_forget() {
    let cells = SharedGcra::new(10.0, 5, 100);
    for _ in 0..5 {
        assert_eq!(cells.check(KEY, 0), Decision::Allowed);
    }
    let taken = cells.take();
    assert_eq!(taken.len(), 1);
    cells.told(KEY, 0, 0);
    assert!(matches!(cells.check(KEY, 0), Decision::Refused { .. }));
}

#[test]
fn what_waits_for_the_store_is_bounded_in_keys_and_in_debt() {
    let cells = SharedGcra::new(1.0, 2, 16_000);
    for second in 0..1_000 {
        assert_eq!(cells.check(KEY, second * 1_000 * MS), Decision::Allowed);
    }
    for number in 0..100_000 {
        let _ = cells.check(&number.to_string(), 1_000_000 * MS);
    }
    assert!(cells.waiting() <= 1_600);
    let (_, taken) = cells.take().into_iter().find(|(key, _)| &**key == KEY).unwrap();
    assert_eq!(taken.by_ns, 3_000 * MS);
    assert_eq!(cells.waiting(), 0);
}
