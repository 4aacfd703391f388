//! The attempts of one request: which instance is asked, what its outcome says of it, and whether
//! another may be asked after it.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use counterfoil_policy::breaker::Breaker;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, header};

use crate::balance::choose;
use crate::headers::{self, Added};
use crate::proxy::Seen;
use crate::respond::{Body, Problem};
use crate::service::{Endpoint, Upstream};
use crate::shared::{Shared, now_us};
use crate::upload::Upload;
use crate::upstream::{Failure, Outgoing, exchange};

/// The longest pause between two attempts.
const PAUSE_LIMIT: Duration = Duration::from_millis(200);

/// Try instances until one answers for good, as far as repeating is safe.
pub async fn attempt(
    shared: &Shared,
    upstream: &Upstream,
    parts: &Parts,
    body: &mut Upload,
    seen: &mut Seen,
) -> Result<Response<Body>, Problem> {
    let repeatable = is_repeatable(parts);
    let mut last =
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no instance of the service is there")
            .retry_after(1));
    for number in 1..=upstream.config.attempts.max(1) {
        let now = if number == 1 && body.is_empty() { seen.started } else { Instant::now() };
        let tried = seen.endpoint.as_deref();
        let Some(endpoint) = choose(upstream, shared.nanoseconds(now), tried) else { break };
        let probe = Probe(&endpoint);
        let added = Added {
            host: &endpoint.host,
            client: seen.way(),
            request_id: &seen.request_id,
            bearer: seen.bearer.as_ref().map(|bearer| (&*bearer.tenant, &*bearer.tier)),
            hooked: &seen.hooked,
        };
        let request = Outgoing { parts, added, body };
        let outcome = exchange(&endpoint.address, request, now.into(), upstream.attempt_timeout).await;
        seen.attempts = number;
        let reached = match outcome {
            Ok(response) if !matches!(response.status().as_u16(), 502..=504) => {
                probe.settle(|breaker| breaker.success());
                learn(shared, upstream, body, now);
                seen.endpoint = Some(endpoint);
                return Ok(response);
            }
            Ok(mut response) => {
                // The instance itself says that it can't at the moment: if none of them can, its word
                // stands, and a client is told when to come again in any case.
                if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                    response.headers_mut().entry(header::RETRY_AFTER).or_insert(1.into());
                }
                last = Ok(response);
                true
            }
            Err(Failure::Client(fault)) => {
                drop(probe);
                seen.endpoint = Some(endpoint);
                return Err(fault.into());
            }
            Err(Failure::Late) => {
                learn(shared, upstream, body, now);
                last = Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time")
                    .retry_after(1));
                true
            }
            Err(failure) => {
                last =
                    Err(Problem::new(StatusCode::BAD_GATEWAY, "the service can't be reached").retry_after(1));
                failure == Failure::Unknown
            }
        };
        probe.settle(|breaker| breaker.failure(shared.nanoseconds(Instant::now())));
        seen.endpoint = Some(endpoint);
        if reached && !repeatable || body.is_spent() {
            break;
        }
        tokio::time::sleep(pause(number)).await;
    }
    last
}

/// Let the limit of the service know how long an instance took, unless it was the client that did.
fn learn(shared: &Shared, upstream: &Upstream, body: &Upload, since: Instant) {
    if upstream.gradient.is_some() && matches!(body, Upload::Whole(_)) {
        let now = Instant::now();
        upstream.took(now - since, shared.nanoseconds(now));
    }
}

/// Whether a request that may have been carried out may be sent again.
pub fn is_repeatable(parts: &Parts) -> bool {
    parts.method.is_idempotent() || parts.headers.contains_key(headers::IDEMPOTENCY_KEY)
}

/// A breaker's admission, given back if the client hangs up before the outcome is known.
struct Probe<'a>(&'a Endpoint);

impl Probe<'_> {
    fn settle(self, outcome: impl FnOnce(&mut Breaker)) {
        outcome(&mut self.0.breaker.lock().unwrap_or_else(PoisonError::into_inner));
        std::mem::forget(self);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.breaker.lock().unwrap_or_else(PoisonError::into_inner).forget();
    }
}

/// Full jitter over an exponential bound (Brooker, "Exponential backoff and jitter", 2015).
fn pause(attempt: u32) -> Duration {
    let bound = Duration::from_millis(10 << attempt.min(5)).min(PAUSE_LIMIT);
    let jitter = f64::from(u32::try_from(now_us() % 1_000).unwrap_or(0)) / 1_000.0;
    bound.mul_f64(jitter)
}
