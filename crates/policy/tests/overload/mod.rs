//! Overload, simulated: a backend with so many servers behind an `Admission`, and tiers that ask for more
//! than there is. Used by `shedding.rs`, and by the plots.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use counterfoil_policy::admission::{Admission, Wait, patience_ns};

pub const MS: u64 = 1_000_000;
pub const TIERS: usize = 3;
pub const SERVICE: u64 = 10 * MS;
pub const PATIENCE: u64 = 100 * MS;

/// The simulation's own randomness (SplitMix64): the same seed, the same run.
pub struct Random(pub u64);

impl Random {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean_ns: f64) -> u64 {
        (-self.uniform().max(1e-12).ln() * mean_ns) as u64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    Leaves(usize),
    LosesPatience(usize),
}

struct Asked {
    tier: usize,
    at: u64,
    /// Since when it is served.
    served: Option<u64>,
    refused: Option<u64>,
    ticket: Option<(usize, u64)>,
}

/// What became of one tier.
#[derive(Debug, Default)]
pub struct Fate {
    pub took: Vec<u64>,
    pub refused_after: Vec<u64>,
}

impl Fate {
    pub fn success(&self) -> f64 {
        self.took.len() as f64 / (self.took.len() + self.refused_after.len()) as f64
    }
}

/// Requests of the tiers at `loads` (in parts of what the servers can do) until `until`, then half of
/// what they can do for as long again; what became of both.
pub fn overload(seed: u64, servers: usize, loads: [f64; TIERS], until: u64) -> [[Fate; TIERS]; 2] {
    let (admission, mut random) = (Admission::new(servers, 64), Random(seed));
    let mut asked: Vec<Asked> = Vec::new();
    let mut events = BinaryHeap::new();
    for (tier, load) in loads.iter().enumerate() {
        for (from, load) in [(0, *load), (until, 0.5 / TIERS as f64)] {
            let mut at = from;
            while load > 0.0 && at < from + until {
                at += random.exponential(SERVICE as f64 / servers as f64 / load);
                events.push(Reverse((at, Event::Arrives(asked.len()))));
                asked.push(Asked { tier, at, served: None, refused: None, ticket: None });
            }
        }
    }
    while let Some(Reverse((now, event))) = events.pop() {
        let mut starts = Vec::new();
        match event {
            Event::Arrives(number) => {
                let tier = asked[number].tier;
                let patience = patience_ns(tier, TIERS, PATIENCE);
                if admission.enter() {
                    starts.push(number);
                } else if patience == 0 {
                    asked[number].refused = Some(now);
                } else {
                    match admission.wait(tier, number) {
                        Wait::Admitted => starts.push(number),
                        Wait::Refused => asked[number].refused = Some(now),
                        Wait::Waits { ticket, pushed_out, admitted } => {
                            asked[number].ticket = Some(ticket);
                            events.push(Reverse((now + patience, Event::LosesPatience(number))));
                            if let Some(out) = pushed_out {
                                asked[out].refused = Some(now);
                            }
                            starts.extend(admitted);
                        }
                    }
                }
            }
            Event::Leaves(_) => starts.extend(admission.leave()),
            Event::LosesPatience(number) => {
                let waits = asked[number].served.is_none() && asked[number].refused.is_none();
                if waits && asked[number].ticket.is_some_and(|ticket| admission.give_up(ticket)) {
                    asked[number].refused = Some(now);
                }
            }
        }
        for number in starts {
            asked[number].served = Some(now);
            events.push(Reverse((now + SERVICE, Event::Leaves(number))));
        }
        assert!(admission.in_flight() <= servers && admission.waiting() <= 64);
        assert!(admission.waiting() == 0 || admission.in_flight() == servers, "a place is left free");
    }
    assert_eq!((admission.in_flight(), admission.waiting()), (0, 0));
    let mut fates: [[Fate; TIERS]; 2] = Default::default();
    for each in asked {
        let fate = &mut fates[usize::from(each.at >= until)][each.tier];
        match (each.served, each.refused) {
            (Some(served), None) => fate.took.push(served + SERVICE - each.at),
            (None, Some(refused)) => fate.refused_after.push(refused - each.at),
            other => panic!("neither answered nor refused, or both: {other:?}"),
        }
    }
    fates
}
