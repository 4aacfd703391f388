//! The attempts of one request: choice of the instance, outcome, retries and hedging.
//!
//! A request is retried if that is safe (its method is idempotent, it has an Idempotency-Key, or it never
//! reached the instance) and if the service's retry budget allows it, so that in an outage instances get
//! little more load than clients send. The backoff is random below a bound that doubles (Brooker,
//! "Exponential backoff and jitter", 2015). An instance that sent Retry-After isn't asked again before then,
//! and only waited for if that is soon; other instances may be asked at once.
//!
//! A hedge is a second attempt while the first is still in flight, where that is configured (Dean and
//! Barroso, "The tail at scale", 2013): the first good answer wins, the other attempt is dropped with its
//! connection, and the budget pays for it as for a retry.

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

/// The longest backoff.
const PAUSE_LIMIT: Duration = Duration::from_millis(200);
/// The longest Retry-After that the gateway waits for; a longer one is passed on to the client.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(1);

/// An attempt that failed.
struct Missed {
    /// The answer if no other instance does better.
    answer: Result<Response<Body>, Problem>,
    /// Whether the instance may have executed the request.
    reached: bool,
    /// The instance's Retry-After.
    retry_after: Option<Duration>,
    /// The client caused the failure; no retry.
    by_client: bool,
}

impl Missed {
    fn new(status: StatusCode, detail: &'static str, reached: bool) -> Self {
        let answer = Err(Problem::new(status, detail).retry_after(1));
        Self { answer, reached, retry_after: None, by_client: false }
    }
}

/// What all attempts of a request have in common.
struct Asking<'a> {
    shared: &'a Shared,
    upstream: &'a Upstream,
    parts: &'a Parts,
    seen: &'a Seen,
    /// Whether it is safe to execute twice.
    repeatable: bool,
    /// Deadline of the whole request, if any.
    until: Option<Instant>,
}

/// Try instances until one gives a final answer, as far as retries are safe. `waited` says whether time has
/// passed since the request arrived, so that the clock must be read again.
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
            // The Retry-After wait doesn't count against the attempt's timeout.
            now = Instant::now();
        }
        // Record the instance before asking it: if the client disconnects meanwhile, the stub names who may
        // have executed the request.
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

/// Ask one instance once, with no client waiting for the answer; `None` if no instance is available.
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
    /// Ask one instance, and report the outcome to its breaker.
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
                // The instance itself reports that it is unavailable. If no other can answer, its response
                // goes to the client, a 503 always with a Retry-After.
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

    /// Ask one instance, and a second one if the first takes longer than `after`. Returns the instance that
    /// answered or failed last, the number of hedges, and the outcome.
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

/// Whether a request that may have been executed can be retried. An Idempotency-Key doesn't count if it is
/// empty, or if Connection lists it, so that the service never sees it.
pub fn is_repeatable(parts: &Parts) -> bool {
    let has_key = || {
        let key = parts.headers.get(headers::IDEMPOTENCY_KEY);
        key.is_some_and(|key| !key.is_empty())
            && !headers::lists(&parts.headers, header::CONNECTION, headers::IDEMPOTENCY_KEY.as_str())
    };
    parts.method.is_idempotent() || has_key()
}

/// A request in flight to an instance, counted until dropped. If the outcome is never known, dropping it
/// returns the breaker's admission.
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

/// Full jitter below an exponential bound.
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
