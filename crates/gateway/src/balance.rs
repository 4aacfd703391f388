//! Load balancing: `policy::balance` orders the instances, then breakers and health checks decide.

use std::sync::atomic::Ordering::Relaxed;

use counterfoil_policy::balance::{Candidate, order};
use counterfoil_policy::breaker::{Mode, Pass};

use crate::attempt::UnderWay;
use crate::service::{Endpoint, Upstream};

/// An instance whose checks and breaker admit the request; `tried` only if no other does.
pub fn choose(upstream: &Upstream, now_ns: u64, tried: Option<&Endpoint>) -> Option<UnderWay> {
    let endpoints = upstream.endpoints.load();
    let (order, panics) = order(&endpoints, upstream.balance, now_ns, fastrand::f64);
    let admits = |each: &Endpoint| {
        if !panics && each.is_out() {
            return None;
        }
        let anyway = || panics && each.breaker.view().mode != Mode::HeldOpen;
        each.breaker.admit(now_ns).or_else(|| anyway().then_some(Pass::Free))
    };
    let is_tried = |each: &Endpoint| tried.is_some_and(|tried| tried.instance == each.instance);
    let others = order.clone().filter(|each| !is_tried(each));
    others
        .chain(order.filter(|each| is_tried(each)))
        .find_map(|each| admits(each).map(|pass| UnderWay::new(each.clone(), pass)))
}

impl Candidate for Endpoint {
    fn load(&self, _now_ns: u64) -> f64 {
        let in_flight = self.in_flight.load(Relaxed) as f64;
        match &self.latency {
            Some(latency) => (in_flight + 1.0) * latency.latency_ns() as f64,
            None => in_flight,
        }
    }

    fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.since_ns.load(Relaxed))
    }

    fn is_healthy(&self) -> bool {
        self.breaker.passes() && !self.is_out()
    }

    /// A breaker that an operator holds closed also overrides health checks.
    fn is_out(&self) -> bool {
        self.checks.as_ref().is_some_and(|checks| checks.health.is_out())
            && self.breaker.view().mode != Mode::HeldClosed
    }
}
