//! The attempts of one request: which instance is asked, what its outcome says of it, and whether
//! another may be asked after it.
//!
//! A request is sent again if that is safe (its method is idempotent, it has an Idempotency-Key, or it
//! never reached the instance), and if the service's retry budget pays for it: in an outage the
//! instances get little more than what clients ask for. The pause before that is random up to a
//! bound that doubles (Brooker, "Exponential backoff and jitter", 2015). An instance that says when to come
//! back is not asked before, if that is soon; others may be at once.
//!
//! A hedge is a second attempt while the first is still under way, where that was asked for (Dean and
//! Barroso, "The tail at scale", 2013): the first good answer counts, the other attempt is dropped with
//! its connection, and the budget pays for it as for a retry.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use counterfoil_policy::breaker::Pass;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, header};

use crate::balance::choose;
use crate::headers::{self, Added, text};
use crate::proxy::Seen;
use crate::respond::{Body, Problem};
use crate::service::{Endpoint, Upstream};
use crate::shared::Shared;
use crate::upload::Upload;
use crate::upstream::{Failure, Outgoing, exchange};

/// The longest pause between two attempts that an instance didn't ask for.
const PAUSE_LIMIT: Duration = Duration::from_millis(200);
/// The longest that an instance may ask for; who is to come back later than that is told so.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(1);

/// An attempt that failed.
struct Missed {
    /// What is answered if no other instance can do better.
    answer: Result<Response<Body>, Problem>,
    /// Whether the instance may have carried the request out.
    reached: bool,
    /// When the instance wants to be asked again.
    retry_after: Option<Duration>,
    /// The client's own doing, after which nothing more is to be tried.
    by_client: bool,
}

impl Missed {
    fn new(status: StatusCode, detail: &'static str, reached: bool) -> Self {
        let answer = Err(Problem::new(status, detail).retry_after(1));
        Self { answer, reached, retry_after: None, by_client: false }
    }
}

/// All that the attempts of a request have in common.
struct Asking<'a> {
    shared: &'a Shared,
    upstream: &'a Upstream,
    parts: &'a Parts,
    seen: &'a Seen,
    /// Whether it may be carried out twice.
    repeatable: bool,
    /// When the whole request has to be answered, if there is a time for that.
    until: Option<Instant>,
}

/// Try instances until one answers for good, as far as repeating is safe. `waited` says whether time has
/// passed since the request came.
pub async fn attempt(
    shared: &Shared,
    upstream: &Upstream,
    parts: &Parts,
    body: &mut Upload,
    seen: &mut Seen,
    waited: bool,
) -> Result<Response<Body>, Problem> {
    let rewritten = seen.rewrite.as_ref().map(|rewrite| rewrite.of(parts)).transpose()?;
    let parts = rewritten.as_deref().unwrap_or(parts);
    let repeatable = is_repeatable(parts);
    upstream.retries.pay_in();
    let until = upstream.request_timeout.map(|timeout| seen.started + timeout);
    let mut missed =
        Missed::new(StatusCode::SERVICE_UNAVAILABLE, "no instance of the service is there", false);
    for number in 1..=upstream.config.attempts {
        let mut now = if number == 1 && !waited { seen.started } else { Instant::now() };
        if until.is_some_and(|until| now >= until) {
            if number == 1 {
                let detail = "the request's time was over before the service could be asked";
                missed = Missed::new(StatusCode::GATEWAY_TIMEOUT, detail, false);
            }
            break;
        }
        let Some(under_way) = choose(upstream, shared.nanoseconds(now), seen.endpoint.as_deref()) else {
            break;
        };
        if let Some(wait) = missed.retry_after.filter(|_| under_way.is_at(seen.endpoint.as_deref())) {
            if wait > RETRY_AFTER_LIMIT || until.is_some_and(|until| now + wait >= until) {
                break;
            }
            tokio::time::sleep(wait).await;
            // What an instance has asked for is none of the time that it has for its answer.
            now = Instant::now();
        }
        // Before it is asked: if the client hangs up meanwhile, the stub tells who may have carried it out.
        seen.attempts += 1;
        upstream.repeated.fetch_add(u64::from(number > 1), Ordering::Relaxed);
        seen.endpoint = Some(Arc::clone(&under_way.endpoint));
        let asking = Asking { shared, upstream, parts, seen, repeatable, until };
        let (endpoint, hedges, outcome) = match upstream.hedge_after {
            Some(after) if number == 1 && repeatable => {
                Box::pin(asking.hedged(under_way, body, now, after)).await
            }
            _ => {
                let endpoint = Arc::clone(&under_way.endpoint);
                (endpoint, 0, asking.ask(under_way, body, now).await)
            }
        };
        seen.attempts += hedges;
        seen.endpoint = Some(endpoint);
        missed = match outcome {
            Ok(response) => return Ok(response),
            Err(missed) => missed,
        };
        let may_repeat = !missed.by_client && !body.is_spent() && (repeatable || !missed.reached);
        if number == upstream.config.attempts || !may_repeat {
            break;
        }
        if !upstream.retries.take_out(shared.nanoseconds(Instant::now())) {
            upstream.unpaid.fetch_add(1, Ordering::Relaxed);
            break;
        }
        tokio::time::sleep(pause(number)).await;
    }
    missed.answer
}

/// Ask one instance, once, for nobody who waits for its answer; nothing if there is none to be asked.
pub async fn attempt_once(
    shared: &Shared,
    upstream: &Upstream,
    parts: &Parts,
    body: Bytes,
    seen: &Seen,
) -> Option<Result<Response<Body>, Problem>> {
    let now = Instant::now();
    let under_way = choose(upstream, shared.nanoseconds(now), None)?;
    let asking = Asking { shared, upstream, parts, seen, repeatable: is_repeatable(parts), until: None };
    let outcome = asking.ask(under_way, &mut Upload::Whole(body), now).await;
    Some(outcome.or_else(|missed| missed.answer))
}

impl Asking<'_> {
    /// Ask one instance, and let its breaker know what became of it.
    async fn ask(
        &self,
        mut under_way: UnderWay,
        body: &mut Upload,
        now: Instant,
    ) -> Result<Response<Body>, Missed> {
        let Self { shared, upstream, parts, seen, repeatable, until } = self;
        let endpoint = &under_way.endpoint;
        let added = Added {
            host: &endpoint.host,
            client: seen.way(),
            request_id: &seen.request_id,
            bearer: seen.bearer.as_ref().map(|bearer| (&*bearer.tenant, &*bearer.tier)),
            traceparent: seen.trace.as_ref().map(|trace| &trace.header),
            early: seen.early,
            hooked: &seen.hooked,
        };
        let timely = matches!(body, Upload::Whole(_));
        let mut timeouts = upstream.timeouts;
        if let Some(until) = until {
            timeouts.answer = timeouts.answer.min(until.saturating_duration_since(now));
        }
        let request = Outgoing { parts, added, body, repeatable: *repeatable, hints: seen.hints(parts) };
        let outcome = exchange(upstream.target(endpoint), request, now.into(), &timeouts).await;
        if timely && upstream.learns && matches!(outcome, Ok(_) | Err(Failure::Late)) {
            let ended = Instant::now();
            upstream.took(endpoint, ended - now, shared.nanoseconds(ended));
        }
        let missed = match outcome {
            Ok(mut response) if !matches!(response.status().as_u16(), 502..=504) => {
                under_way.succeeded(shared.nanoseconds(now));
                if let Body::Rest(rest) = response.body_mut() {
                    rest.keep(under_way);
                }
                return Ok(response);
            }
            Ok(mut response) => {
                // The instance itself says that it can't at the moment: if none of them can, its word
                // stands, and a client is told when to come again in any case.
                let asked_for = text(response.headers(), header::RETRY_AFTER).parse().ok();
                if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                    response.headers_mut().entry(header::RETRY_AFTER).or_insert(1.into());
                }
                let retry_after = asked_for.map(Duration::from_secs);
                Missed { answer: Ok(response), reached: true, retry_after, by_client: false }
            }
            Err(Failure::Client(fault)) => {
                let answer = Err(fault.into());
                return Err(Missed { answer, reached: true, retry_after: None, by_client: true });
            }
            Err(Failure::Late) => {
                Missed::new(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time", true)
            }
            Err(failure) => {
                let reached = failure == Failure::Unknown;
                let detail =
                    if reached { "the service broke its answer off" } else { "the service can't be reached" };
                Missed::new(StatusCode::BAD_GATEWAY, detail, reached)
            }
        };
        under_way.failed(shared.nanoseconds(Instant::now()));
        Err(missed)
    }

    /// Ask one instance, and another one as well if it takes too long: who answered or failed last, how
    /// many were asked beside the first, and the outcome.
    async fn hedged(
        &self,
        first: UnderWay,
        body: &mut Upload,
        now: Instant,
        after: Duration,
    ) -> (Arc<Endpoint>, u32, Result<Response<Body>, Missed>) {
        let Upload::Whole(whole) = &*body else {
            let endpoint = Arc::clone(&first.endpoint);
            return (endpoint, 0, self.ask(first, body, now).await);
        };
        let mut copy = Upload::Whole(whole.clone());
        let endpoint = Arc::clone(&first.endpoint);
        let mut first = pin!(self.ask(first, body, now));
        if let Ok(outcome) = tokio::time::timeout(after, &mut first).await {
            return (endpoint, 0, outcome);
        }
        let now = Instant::now();
        let now_ns = self.shared.nanoseconds(now);
        let other = choose(self.upstream, now_ns, Some(&endpoint))
            .filter(|other| !other.is_at(Some(&endpoint)) && self.upstream.retries.take_out(now_ns));
        let Some(second) = other else { return (endpoint, 0, first.await) };
        self.upstream.hedges.fetch_add(1, Ordering::Relaxed);
        let other = Arc::clone(&second.endpoint);
        let mut second = pin!(self.ask(second, &mut copy, now));
        tokio::select! {
            outcome = &mut first => match outcome {
                Ok(response) => (endpoint, 1, Ok(response)),
                Err(_) => (other, 1, second.await),
            },
            outcome = &mut second => match outcome {
                Ok(response) => (other, 1, Ok(response)),
                Err(_) => (endpoint, 1, first.await),
            },
        }
    }
}

/// Whether a request that may have been carried out may be sent again: not by a key that is empty, which
/// is none, or that stays behind with the client's connection.
pub fn is_repeatable(parts: &Parts) -> bool {
    let has_key = || {
        let key = parts.headers.get(headers::IDEMPOTENCY_KEY);
        key.is_some_and(|key| !key.is_empty())
            && !headers::lists(&parts.headers, header::CONNECTION, headers::IDEMPOTENCY_KEY.as_str())
    };
    parts.method.is_idempotent() || has_key()
}

/// A request under way to an instance: counted for as long as this lives, and its breaker's admission
/// given back if the outcome is never known.
pub struct UnderWay {
    pub endpoint: Arc<Endpoint>,
    pass: Option<Pass>,
}

impl UnderWay {
    pub fn new(endpoint: Arc<Endpoint>, pass: Pass) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, pass: Some(pass) }
    }

    fn is_at(&self, endpoint: Option<&Endpoint>) -> bool {
        endpoint.is_some_and(|endpoint| endpoint.instance == self.endpoint.instance)
    }

    fn succeeded(&mut self, now_ns: u64) {
        if let Some(pass) = self.pass.take() {
            self.endpoint.breaker.success(pass, now_ns);
        }
    }

    fn failed(&mut self, now_ns: u64) {
        if let Some(pass) = self.pass.take() {
            self.endpoint.breaker.failure(pass, now_ns);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(pass) = self.pass.take() {
            self.endpoint.breaker.forget(pass);
        }
    }
}

/// Full jitter over an exponential bound.
fn pause(attempt: u32) -> Duration {
    let bound = Duration::from_millis(10 << attempt.min(5)).min(PAUSE_LIMIT);
    bound.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn a_request_is_repeated_by_its_method_or_by_a_key_that_the_service_gets_to_see() {
        let repeatable = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_repeatable(&request.body(()).unwrap().into_parts().0)
        };
        assert!(repeatable("GET", &[]) && repeatable("DELETE", &[]));
        assert!(repeatable("POST", &[("idempotency-key", "k"), ("connection", "keep-alive")]));
        assert!(!repeatable("POST", &[]));
        assert!(!repeatable("POST", &[("idempotency-key", "")]));
        assert!(!repeatable("POST", &[("idempotency-key", "k"), ("connection", "close, Idempotency-Key")]));
    }
}
