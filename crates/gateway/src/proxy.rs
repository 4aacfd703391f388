//! The way of one request: route, identity, limits, concurrency, attempts, stub, answer.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use counterfoil_policy::gcra::Decision;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};

use crate::access_log::Stub;
use crate::config::LimitKey;
use crate::identity::{Bearer, Rejected, verify};
use crate::respond::{Body, Problem, full};
use crate::shared::{BUCKETS, Endpoint, Route, Shared, Upstream, now_us};
use crate::upstream::{Failure, send};

/// An instance's answer is read whole up to this size, so that an answer is either complete or
/// asked for again. (Larger bodies belong on a route that streams, which this gateway lacks yet.)
const RESPONSE_LIMIT: usize = 16 * 1024 * 1024;
/// Client-chosen values that are logged are cut to this many bytes.
const LOGGED_LIMIT: usize = 256;
/// The longest pause between two attempts.
const PAUSE_LIMIT: Duration = Duration::from_millis(200);

/// How much of a refused request's body is read, and for how long, to keep its connection.
const DRAIN_LIMIT: usize = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What is known of a request by the time it is answered.
#[derive(Default)]
struct Seen {
    request_id: String,
    bearer: Option<Arc<Bearer>>,
    instance: String,
    attempts: u32,
}

/// Answer one request, and leave its stub before the answer leaves.
pub async fn serve(shared: Arc<Shared>, client: IpAddr, request: Request<Incoming>) -> Response<Body> {
    let _in_flight = shared.enter();
    let started = Instant::now();
    let time_us = now_us();
    let (parts, mut body) = request.into_parts();
    let version = parts.version;
    let method = parts.method.clone();
    let path = parts.uri.path().to_owned();
    let idempotency_key = header(&parts.headers, "idempotency-key").to_owned();
    let mut seen = Seen { request_id: request_id(&parts.headers, time_us), ..Seen::default() };
    let route = find(&shared, &method, &path);
    let answer = match &route {
        Ok(route) => pass_on(&shared, route, client, parts, &mut body, &mut seen).await,
        Err(missed) => {
            let status =
                if missed.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::METHOD_NOT_ALLOWED };
            Err(Problem::new(status, format!("there is no route for {method} {path}"))
                .allow(missed.join(", ")))
        }
    };
    let mut response = answer.unwrap_or_else(Problem::into_response);
    if !body.is_end_stream() && !drained(&mut body).await && version < Version::HTTP_2 {
        // What is still on its way would be taken for the next request, so this one is the last.
        response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    }
    let duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    if let Ok(route) = route {
        count(route, response.status(), duration_us);
    }
    let (tenant, tier) = seen.bearer.as_ref().map_or(("", ""), |bearer| (&bearer.tenant, &bearer.tier));
    let stub = Stub {
        time_us,
        request_id: &seen.request_id,
        method: method.as_str(),
        path: cut(&path),
        status: response.status().as_u16(),
        tenant,
        tier,
        service: route.map_or("", |route| &route.config.service),
        instance: &seen.instance,
        attempts: seen.attempts,
        duration_us,
        idempotency_key: cut(&idempotency_key),
        effect: header(response.headers(), "counterfoil-effect"),
    };
    let written = shared.access_log.as_ref().map_or(Ok(()), |log| log.write(&stub));
    if written.is_err() && response.status().is_success() {
        // Without its stub an answer could never be matched; the same request may come again.
        response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the answer could not be recorded")
            .retry_after(1)
            .into_response();
    }
    if let Ok(value) = HeaderValue::from_str(&seen.request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// Read what is left of a refused request, so that its connection can serve the next one. Whether
/// all of it came: a client that sends much, or slowly, is not waited for.
async fn drained(body: &mut Incoming) -> bool {
    let rest = Limited::new(body, DRAIN_LIMIT).collect();
    matches!(tokio::time::timeout(DRAIN_TIMEOUT, rest).await, Ok(Ok(_)))
}

/// The route of a request, or the methods that its path has (none if there is no such path).
fn find<'a>(shared: &'a Shared, method: &Method, path: &str) -> Result<&'a Route, Vec<&'a str>> {
    let mut methods = Vec::new();
    for route in &shared.routes {
        let matches = match route.config.path.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == route.config.path,
        };
        if matches && route.config.methods.iter().any(|each| each == method.as_str()) {
            return Ok(route);
        }
        if matches {
            methods.extend(route.config.methods.iter().map(String::as_str));
        }
    }
    Err(methods)
}

async fn pass_on(
    shared: &Shared,
    route: &Route,
    client: IpAddr,
    mut parts: Parts,
    body: &mut Incoming,
    seen: &mut Seen,
) -> Result<Response<Body>, Problem> {
    if shared.draining() {
        return Err(
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this gateway is shutting down").retry_after(1)
        );
    }
    if route.config.identity {
        seen.bearer = Some(identify(shared, &parts.headers)?);
    }
    limit(shared, route, client, seen.bearer.as_deref())?;
    let upstream = &route.upstream;
    let _permit = upstream.permits.try_acquire().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the service has as many requests as it may have")
            .retry_after(1)
    })?;
    let repeatable = parts.method.is_idempotent() || parts.headers.contains_key("idempotency-key");
    let body = Limited::new(body, shared.config.request_body_limit)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                let limit = shared.config.request_body_limit;
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
            } else {
                Problem::new(StatusCode::BAD_REQUEST, "the body did not arrive whole")
            }
        })?
        .to_bytes();
    rewrite(&mut parts.headers, client, seen);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    attempt(shared, upstream, &parts.method, path, &parts.headers, &body, repeatable, seen).await
}

/// Try instances until one answers for good, as far as repeating is safe.
#[expect(clippy::too_many_arguments, reason = "a request taken apart, so that it can be sent again")]
async fn attempt(
    shared: &Shared,
    upstream: &Upstream,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
    repeatable: bool,
    seen: &mut Seen,
) -> Result<Response<Body>, Problem> {
    let timeout = Duration::from_secs_f64(upstream.config.attempt_timeout_seconds);
    let mut last =
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no instance of the service is there").retry_after(1);
    let mut tried: Option<Arc<Endpoint>> = None;
    for number in 1..=upstream.config.attempts.max(1) {
        let Some(endpoint) = choose(shared, upstream, tried.as_deref()) else { break };
        seen.attempts = number;
        seen.instance.clone_from(&endpoint.instance);
        let probe = Probe(&endpoint);
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() =
            path.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the path is not valid"))?;
        *request.headers_mut() = headers.clone();
        if let Ok(host) = HeaderValue::from_str(&endpoint.address) {
            request.headers_mut().insert("host", host);
        }
        let outcome = tokio::time::timeout(timeout, exchange(&endpoint.address, request)).await;
        let reached = match outcome {
            Ok(Ok(response)) if !matches!(response.status().as_u16(), 502..=504) => {
                probe.settle(|breaker| breaker.success());
                return Ok(response);
            }
            Ok(Ok(response)) => {
                // The instance itself says that it can't at the moment.
                let retry = header(response.headers(), "retry-after").parse().unwrap_or(1);
                last = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the service is not available")
                    .retry_after(retry);
                true
            }
            Ok(Err(failure)) => {
                last = Problem::new(StatusCode::BAD_GATEWAY, "the service can't be reached").retry_after(1);
                failure == Failure::Unknown
            }
            Err(_) => {
                last = Problem::new(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time")
                    .retry_after(1);
                true
            }
        };
        probe.settle(|breaker| breaker.failure(shared.now_ns()));
        if reached && !repeatable {
            break;
        }
        tried = Some(endpoint);
        tokio::time::sleep(pause(number)).await;
    }
    Err(last)
}

async fn exchange(address: &str, request: Request<Full<Bytes>>) -> Result<Response<Body>, Failure> {
    let (response, lease) = send(address, request).await?;
    let (mut parts, body) = response.into_parts();
    let body = Limited::new(body, RESPONSE_LIMIT).collect().await.map_err(|_| Failure::Unknown)?.to_bytes();
    drop(lease);
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, full(body)))
}

/// The next instance in turn whose breaker admits a request, another than `tried` if there is one.
fn choose(shared: &Shared, upstream: &Upstream, tried: Option<&Endpoint>) -> Option<Arc<Endpoint>> {
    let endpoints = upstream.endpoints.load();
    let first = upstream.next.fetch_add(1, Ordering::Relaxed);
    let in_turn = || (0..endpoints.len()).map(|step| &endpoints[(first + step) % endpoints.len()]);
    let is_tried = |each: &Endpoint| tried.is_some_and(|tried| tried.instance == each.instance);
    let admits = |each: &Arc<Endpoint>| {
        each.breaker.lock().unwrap_or_else(PoisonError::into_inner).admit(shared.now_ns())
    };
    in_turn()
        .find(|each| !is_tried(each) && admits(each))
        .or_else(|| in_turn().find(|each| is_tried(each) && admits(each)))
        .cloned()
}

/// A breaker's admission, given back if the client hangs up before the outcome is known.
struct Probe<'a>(&'a Endpoint);

impl Probe<'_> {
    fn settle(self, outcome: impl FnOnce(&mut counterfoil_policy::breaker::Breaker)) {
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

fn identify(shared: &Shared, headers: &HeaderMap) -> Result<Arc<Bearer>, Problem> {
    let Some(identity) = &shared.config.identity else { return Err(unauthorized(Rejected::Missing)) };
    let token = header(headers, "authorization");
    let token = match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(unauthorized(Rejected::Missing)),
    };
    let now = now_us() / 1_000_000;
    if let Some(bearer) = shared.known_token(token, now) {
        return Ok(bearer);
    }
    let bearer =
        verify(identity, token, now, |kid| shared.keys.load().get(kid).cloned()).map_err(|rejected| {
            if rejected == Rejected::UnknownKey {
                shared.unknown_key.notify_one();
            }
            if shared.keys.load().is_empty() {
                // It is the gateway that can't tell, not the client that can't prove.
                return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the issuer's keys are not here yet")
                    .retry_after(1);
            }
            unauthorized(rejected)
        })?;
    let bearer = Arc::new(bearer);
    shared.remember_token(token, &bearer);
    Ok(bearer)
}

fn unauthorized(rejected: Rejected) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, rejected.to_string())
}

fn limit(shared: &Shared, route: &Route, client: IpAddr, bearer: Option<&Bearer>) -> Result<(), Problem> {
    for limit in &route.limits {
        let decision = match limit.key {
            LimitKey::Tenant => limit.gcra.check(bearer.map_or("", |bearer| &bearer.tenant), shared.now_ns()),
            LimitKey::Address => limit.gcra.check(&client.to_string(), shared.now_ns()),
        };
        match decision {
            Decision::Allowed => limit.allowed.fetch_add(1, Ordering::Relaxed),
            Decision::Refused { retry_after_ns } => {
                limit.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    format!("limit {} is used up", limit.name),
                )
                .retry_after(retry_after_ns.div_ceil(1_000_000_000)));
            }
        };
    }
    Ok(())
}

/// What an instance gets to see: no hop-by-hop headers, no credential, and of who asks only what
/// the gateway has checked.
fn rewrite(headers: &mut HeaderMap, client: IpAddr, seen: &Seen) {
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let internal: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-counterfoil-")).cloned().collect();
    for name in named.into_iter().chain(internal) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP.into_iter().chain(["authorization", "content-length", "expect", "x-forwarded-for"])
    {
        headers.remove(name);
    }
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-forwarded-for", &client.to_string());
    set("x-request-id", &seen.request_id);
    if let Some(bearer) = &seen.bearer {
        set("x-counterfoil-tenant", &bearer.tenant);
        set("x-counterfoil-tier", &bearer.tier);
    }
}

fn request_id(headers: &HeaderMap, time_us: u64) -> String {
    use std::hash::{BuildHasher, RandomState};
    let given = header(headers, "x-request-id");
    if !given.is_empty()
        && given.len() <= 64
        && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return given.to_owned();
    }
    format!("{time_us:x}-{:08x}", RandomState::new().hash_one(time_us) & 0xffff_ffff)
}

fn count(route: &Route, status: StatusCode, duration_us: u64) {
    let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
    route.answers[class].fetch_add(1, Ordering::Relaxed);
    let bucket = BUCKETS.partition_point(|bound| *bound < duration_us);
    route.durations[bucket].fetch_add(1, Ordering::Relaxed);
    route.duration_sum_us.fetch_add(duration_us, Ordering::Relaxed);
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LOGGED_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
