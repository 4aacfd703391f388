//! The admin port: metrics, state and commands, for holders of the admin credential.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use counterfoil_policy::breaker::Mode;
use http_body_util::{BodyExt, Limited};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cache;
use crate::metrics;
use crate::mirror;
use crate::request_body::RequestBody;
use crate::respond::{Body, Problem};
use crate::route::BUCKETS;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, waiting};
use crate::split;

/// Body limit of `/breakers` and `/splits`.
const HOLD_BYTES: usize = 4 * 1024;
/// Body limit of `/cache/purge`; larger purges are sent in parts.
const PURGE_BYTES: usize = 1024 * 1024;

/// Answer `GET /metrics`, `/state` and `/config`, `POST /cache/purge`, `/breakers`, `/splits`
/// and `/drain`.
pub async fn serve(shared: &Shared, request: Request<RequestBody>) -> Response<Body> {
    let given = request.headers().get("authorization").map_or(&b""[..], HeaderValue::as_bytes);
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    if !shared.snapshot().config.admin_credential.matches(given) {
        return Problem::new(StatusCode::UNAUTHORIZED, "the operators' credential is needed").into_response();
    }
    let path = request.uri().path();
    let methods: &[Method] = match path {
        "/metrics" | "/state" | "/config" => &[Method::GET, Method::HEAD],
        "/drain" | "/breakers" | "/cache/purge" | "/splits" => &[Method::POST],
        _ => {
            return Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))
                .into_response();
        }
    };
    if !methods.contains(request.method()) {
        let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("{path} is asked by {allowed}");
        return Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).allow(allowed).into_response();
    }
    let (kind, content) = match path {
        "/metrics" => metrics::answer(shared, request.headers()),
        "/state" => ("application/json", state(shared).to_string()),
        "/config" => ("application/json", shared.snapshot().config.shown.to_string()),
        "/drain" => {
            shared.drain();
            ("application/json", json!({"draining": true}).to_string())
        }
        "/breakers" => match hold_breaker(shared, request).await {
            Ok(held) => ("application/json", held),
            Err(problem) => return problem.into_response(),
        },
        "/cache/purge" => match purge(shared, request).await {
            Ok(purged) => ("application/json", purged),
            Err(problem) => return problem.into_response(),
        },
        // `/splits`.
        _ => match weigh(shared, request).await {
            Ok(weighed) => ("application/json", weighed),
            Err(problem) => return problem.into_response(),
        },
    };
    let mut response = Response::new(Body::Whole(content.into()));
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response
}

/// A breaker and its new mode: `open`, `closed` or `auto`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    service: String,
    instance: String,
    mode: String,
}

/// Set the mode of the breaker that the request body names.
async fn hold_breaker(shared: &Shared, request: Request<RequestBody>) -> Result<String, Problem> {
    let body = small(request).await?;
    let hold: Hold = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    shared.hold_breaker(&hold.service, &hold.instance, &hold.mode).map_err(|error| bad(error.to_string()))?;
    let Hold { service, instance, mode } = hold;
    Ok(json!({"service": service, "instance": instance, "mode": mode}).to_string())
}

/// Change the weights of the split that the request body names; returns the new state of all splits.
async fn weigh(shared: &Shared, request: Request<RequestBody>) -> Result<String, Problem> {
    let body = small(request).await?;
    shared.weigh(&body).map_err(|error| bad(error.to_string()))?;
    Ok(json!({"splits": split::state(&shared.snapshot())}).to_string())
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// Read a request body of at most `HOLD_BYTES`.
async fn small(request: Request<RequestBody>) -> Result<Bytes, Problem> {
    let read = Limited::new(request.into_body(), HOLD_BYTES).collect().await;
    Ok(read.map_err(|_| bad(format!("send at most {HOLD_BYTES} bytes")))?.to_bytes())
}

/// Purge what the request body selects; returns what was purged, as JSON.
async fn purge(shared: &Shared, request: Request<RequestBody>) -> Result<String, Problem> {
    let read = Limited::new(request.into_body(), PURGE_BYTES).collect().await.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("send at most {PURGE_BYTES} bytes at a time"))
    })?;
    shared.purge(&read.to_bytes()).map_err(|error| bad(error.to_string()))
}

/// The document of `/state`.
pub fn state(shared: &Shared) -> Value {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let snapshot = shared.snapshot();
    let now_ns = shared.nanoseconds(Instant::now());
    let services: serde_json::Map<_, _> = snapshot
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let endpoints: Vec<_> = upstream
                .endpoints
                .load()
                .iter()
                .map(|each| {
                    let breaker = each.breaker.view();
                    let health = each.checks.as_ref().map(|checks| checks.health.view());
                    let age_seconds = |since_ns: u64| now_ns.saturating_sub(since_ns) as f64 / 1e9;
                    json!({
                        "instance": each.instance, "address": each.address,
                        "in_flight": each.in_flight.load(Ordering::Relaxed),
                        "breaker": breaker.name(),
                        "breaker_held": breaker.mode != Mode::Auto,
                        "breaker_reason": breaker.to_string(),
                        "breaker_changed_seconds": age_seconds(breaker.changed_ns),
                        "health": health.map(|health| health.state.name()),
                        "health_trouble": each.checks.as_ref().and_then(|checks| checks.trouble()),
                        "tls_trouble": upstream.tls.as_ref().and_then(|tls| tls.record.trouble(&each.instance)),
                        "health_changed_seconds": health.map(|health| age_seconds(health.changed_ns)),
                    })
                })
                .collect();
            let state = json!({
                "tunnels": upstream.tunnels.load(Ordering::Relaxed),
                "in_flight": upstream.places.in_flight(),
                "limit": upstream.places.limit(),
                "waiting": upstream.places.waiting(),
                "shed": Value::from_iter(snapshot.shed(upstream)),
                "unloaded_us": upstream.gradient.as_ref().map(|gradient| gradient.baseline_ns() / 1_000),
                "retries": load(&upstream.repeated),
                "retries_saved": upstream.retries.saved(),
                "retries_refused": load(&upstream.unpaid),
                "hedges": load(&upstream.hedges),
                "endpoints": endpoints,
            });
            (name.clone(), state)
        })
        .collect();
    let limits: Vec<_> = snapshot
        .limits
        .iter()
        .map(|limit| {
            json!({
                "name": limit.name, "allowed": load(&limit.allowed), "refused": load(&limit.refused),
                "keys": limit.keys(),
            })
        })
        .collect();
    let mut counts = [0u64; BUCKETS.len()];
    for each in snapshot.counts.values() {
        for (count, bucket) in counts.iter_mut().zip(&each.durations) {
            *count += load(bucket);
        }
    }
    let (certificates, acme) = shared.certificates().map(|all| all.state()).unzip();
    let issuers = snapshot.verifier.iter().flat_map(|verifier| &verifier.issuers);
    json!({
        "services": services,
        "limits": limits,
        "shared_limits": shared.link.as_ref().map(|link| link.state(waiting(&snapshot))),
        "hooks": snapshot.hooks.values().map(|hook| hook.state()).collect::<Vec<_>>(),
        "cache": cache::state(&snapshot),
        "routes": routes(&snapshot),
        "splits": split::state(&snapshot),
        "mirrors": mirror::state(&snapshot),
        "requests": load(&shared.requests),
        "connections": shared.connections(),
        "turned_away": load(&shared.turned_away),
        "unannounced": shared.unannounced.count(),
        "early_requests": {
            "marked": load(&shared.early_data.marked),
            "waited": load(&shared.early_data.waited),
            "refused": load(&shared.early_data.refused),
        },
        "latency_us": {"p50": quantile(&counts, 0.5), "p99": quantile(&counts, 0.99)},
        "certificates": certificates,
        "acme": acme,
        "issuers": issuers.map(|issuer| issuer.state()).collect::<Vec<_>>(),
        "traces": snapshot.tracing.as_ref().map(|tracing| tracing.state()),
        "configuration": shared.configuration_state(),
        "draining": shared.draining(),
    })
}

/// Outcomes of requests by route path.
fn routes(snapshot: &Snapshot) -> Vec<Value> {
    let told = snapshot.counts.iter().map(|(path, counts)| {
        let durations: [u64; BUCKETS.len()] =
            std::array::from_fn(|bucket| counts.durations[bucket].load(Ordering::Relaxed));
        json!({
            "path": path,
            "answers": counts.answers.each_ref().map(|count| count.load(Ordering::Relaxed)),
            "latency_us": {"p50": quantile(&durations, 0.5), "p99": quantile(&durations, 0.99)},
        })
    });
    told.collect()
}

/// The upper bound of the bucket that holds the quantile.
pub fn quantile(counts: &[u64; BUCKETS.len()], quantile: f64) -> u64 {
    let total: u64 = counts.iter().sum();
    let wanted = (total as f64 * quantile).ceil() as u64;
    let mut sum = 0;
    for (count, bound) in counts.iter().zip(BUCKETS) {
        sum += count;
        if sum >= wanted && total > 0 {
            return bound;
        }
    }
    0
}
