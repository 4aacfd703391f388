//! A retry budget: retries are limited to a fraction of requests, so that in an outage they don't multiply
//! the load (Finagle's `RetryBudget`; Beyer et al., "Site Reliability Engineering", chapter 21).
//!
//! Each request deposits a fraction of a token, each retry withdraws a whole one. Services with little
//! traffic would never have one, so there is also a small reserve that refills by itself. So over any span
//! `t` with `n` requests, at most `n * part + SAVED + RESERVE + t * RESERVE_PER_SECOND` retries are sent.

use crate::sync::{AtomicU64, Ordering};

/// A token in units of the budget: fractions are exact to a thousandth.
const TOKEN: u64 = 1_000;
/// Maximum balance in tokens: calm hours must not pay for a storm.
const SAVED: u64 = 100;
/// Retries available without any deposit, and how fast they refill.
const RESERVE: u64 = 10;
const RESERVE_PER_SECOND: u64 = 1;
const SECOND_NS: u64 = 1_000_000_000;

/// The budget of one service, shared by all workers.
pub struct RetryBudget {
    deposit: u64,
    balance: AtomicU64,
    /// When the reserve will be full again (a GCRA of one cell).
    whole_at_ns: AtomicU64,
}

impl RetryBudget {
    /// `part` retries per request.
    #[must_use]
    pub fn new(part: f64) -> Self {
        let deposit = (part.clamp(0.0, 10.0) * TOKEN as f64).round() as u64;
        Self { deposit, balance: AtomicU64::new(0), whole_at_ns: AtomicU64::new(0) }
    }

    /// Deposit for a request.
    pub fn pay_in(&self) {
        let balance = self.balance.load(Ordering::Relaxed);
        if balance < SAVED * TOKEN {
            // Concurrent threads may exceed the maximum by a deposit each.
            self.balance.fetch_add(self.deposit, Ordering::Relaxed);
        }
    }

    /// Withdraw a token for a retry; false if there is none.
    pub fn take_out(&self, now_ns: u64) -> bool {
        let less = |balance: u64| balance.checked_sub(TOKEN);
        if self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return true;
        }
        let interval = SECOND_NS / RESERVE_PER_SECOND;
        let later = |whole_at: u64| {
            let next = whole_at.max(now_ns) + interval;
            (self.deposit > 0 && next - now_ns <= RESERVE * interval).then_some(next)
        };
        self.whole_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok()
    }

    /// The balance in whole retries, without the reserve.
    #[must_use]
    pub fn saved(&self) -> u64 {
        self.balance.load(Ordering::Relaxed) / TOKEN
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn retries_never_exceed_what_was_paid_for_and_the_reserve(
            part in 0.0f64..1.0, gaps in prop::collection::vec((0u64..20_000_000, 0u8..4), 1..600),
        ) {
            let budget = RetryBudget::new(part);
            let (mut now, mut requests, mut retries) = (0, 0, 0);
            for (gap, wanted) in gaps {
                now += gap;
                budget.pay_in();
                requests += 1;
                for _ in 0..wanted {
                    retries += u64::from(budget.take_out(now));
                }
                let reserve = (RESERVE * SECOND_NS + now) as f64 / SECOND_NS as f64;
                prop_assert!(retries as f64 <= f64::from(requests) * (part + 0.0005) + reserve + 1.0);
            }
        }
    }

    #[test]
    fn no_budget_is_no_retry_and_calm_hours_do_not_pay_for_a_storm() {
        let none = RetryBudget::new(0.0);
        none.pay_in();
        assert!(!none.take_out(0));
        let budget = RetryBudget::new(0.2);
        for _ in 0..1_000_000 {
            budget.pay_in();
        }
        let taken = (0..1_000).filter(|_| budget.take_out(0)).count() as u64;
        assert_eq!(taken, SAVED + RESERVE);
    }
}
