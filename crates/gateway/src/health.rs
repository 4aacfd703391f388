//! Active health checks: the gateway sends periodic probes to instances of services that configure them.
//! `policy::health` interprets the outcomes; this module sends the probes.
//!
//! Each known instance has a task, which sends one probe at a time, at its interval. When discovery drops an
//! instance, its task ends, and with it a probe in flight. The number of concurrent probes over all instances
//! is bounded; waiting probes are served in order. Probes run on the admin thread and take no time from
//! clients. They pass through no route, limit, breaker or concurrency place, and aren't in the access log.
//!
//! Each probe uses a new connection. A reused one would not show that an instance accepts no new connections,
//! and would report a failure where an instance has just closed an idle connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use counterfoil_policy::health::{Health, Settings, State, Turn};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper::header::HeaderValue;
use hyper::http::request;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, Version, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Error;
use crate::config::{Protocol, Service};
use crate::grpc_health;
use crate::metrics::Page;
use crate::own_request;
use crate::service::Endpoint;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::{Target, connect};

/// Maximum number of concurrent probes over all services. With a timeout of a second, as many unresponsive
/// instances are detected each second, and descriptors and buffered answers are bounded.
const AT_ONCE: usize = 64;
/// Maximum bytes read of an answer. The status is what counts; an error report fits.
const ANSWER_BYTES: usize = 64 * 1024;
const USER_AGENT: &str = "counterfoil-gateway-health";

/// The probe of a service, and the expected answer.
pub struct Probe {
    settings: Settings,
    question: Question,
    timeout: Duration,
    service: String,
    counts: Arc<Counts>,
}

/// The request of a probe, and what makes its answer good.
enum Question {
    /// GET; the answer must have one of these statuses, or any 2xx if there are none.
    Http { path: PathAndQuery, statuses: Vec<u16> },
    /// The gRPC health protocol; the encoded request message.
    Grpc(Bytes),
}

/// Outcomes of a service's probes, in earlier and later configurations too.
#[derive(Default)]
pub struct Counts {
    passed: AtomicU64,
    failed: AtomicU64,
}

impl Probe {
    /// The probe that `config` describes; `None` without health checks.
    ///
    /// # Errors
    /// `Error::Config` for an invalid path, duration or gRPC setting.
    pub fn new(name: &str, config: &Service, counts: &Arc<Counts>) -> Result<Option<Arc<Self>>, Error> {
        let Some(check) = &config.health else { return Ok(None) };
        let wrong = |what: &str, why: &dyn std::fmt::Display| {
            Error::Config(format!("service {name}: health: {what}: {why}"))
        };
        let seconds = |what: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds).map_err(|error| wrong(what, &error))
        };
        let question = match &check.grpc {
            Some(service) if service.len() > grpc_health::NAME_BYTES => {
                return Err(wrong("grpc", &format!("names have {} bytes at most", grpc_health::NAME_BYTES)));
            }
            Some(_) if config.protocol == Protocol::Http1 => {
                return Err(wrong("grpc", &"the protocol of the service must be HTTP/2"));
            }
            Some(service) => Question::Grpc(grpc_health::question(service)),
            None if !check.path.starts_with('/') => {
                return Err(wrong("path", &"must begin with /, as in /healthz"));
            }
            None => Question::Http {
                path: check.path.parse().map_err(|error| wrong("path", &error))?,
                statuses: check.statuses.clone(),
            },
        };
        let interval = seconds("interval", check.interval_seconds)?;
        Ok(Some(Arc::new(Self {
            settings: Settings {
                interval_ns: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX),
                failures: check.failures.max(1),
                successes: check.successes.max(1),
            },
            question,
            timeout: seconds("timeout", check.timeout_seconds)?,
            service: name.to_owned(),
            counts: Arc::clone(counts),
        })))
    }

    /// Probe an instance.
    ///
    /// # Errors
    /// Why the probe failed, as a readable text.
    async fn send(&self, target: &Target<'_>, host: &HeaderValue) -> Result<(), String> {
        let until = tokio::time::Instant::now() + self.timeout;
        let answer = match tokio::time::timeout_at(until, self.ask(target, host, until)).await {
            Ok(answered) => answered.map_err(|error| told(&*error))?,
            Err(_) => return Err(format!("no answer within {} s", self.timeout.as_secs_f64())),
        };
        self.question.judge(answer)
    }

    async fn ask(
        &self,
        target: &Target<'_>,
        host: &HeaderValue,
        until: tokio::time::Instant,
    ) -> Result<Response<Collected<Bytes>>, own_request::Error> {
        let stream = TokioIo::new(connect(target, until).await?);
        let (path, request, body) = self.question.put();
        let request = request.header(header::USER_AGENT, USER_AGENT);
        // Dropped on timeout, and the connection with it. Its result is ignored: the answer, or its absence,
        // shows it.
        let mut serving = JoinSet::new();
        let response = match target.protocol {
            Protocol::Http1 => {
                let request = request.header(header::HOST, host).header(header::CONNECTION, "close");
                let (mut sender, connection) = http1::handshake(stream).await?;
                serving.spawn(async move { _ = connection.await });
                sender.send_request(request.uri(path).body(body)?).await?
            }
            Protocol::H2c | Protocol::H2 => {
                let scheme = if target.tls.is_some() { "https" } else { "http" };
                let asked = format!("{scheme}://{}{path}", host.to_str()?);
                let request = request.uri(asked).version(Version::HTTP_2);
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                serving.spawn(async move { _ = connection.await });
                sender.send_request(request.body(body)?).await?
            }
        };
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, Limited::new(body, ANSWER_BYTES).collect().await?))
    }
}

impl Question {
    /// The request's path, the rest of its head, and its body.
    fn put(&self) -> (&str, request::Builder, Full<Bytes>) {
        match self {
            Self::Http { path, .. } => (path.as_str(), Request::builder(), Full::default()),
            Self::Grpc(message) => {
                let request = Request::builder()
                    .method(Method::POST)
                    .header(header::CONTENT_TYPE, "application/grpc")
                    .header(header::TE, "trailers");
                (grpc_health::METHOD, request, Full::new(message.clone()))
            }
        }
    }

    /// # Errors
    /// Why the answer isn't good, as a readable text.
    fn judge(&self, answer: Response<Collected<Bytes>>) -> Result<(), String> {
        let status = answer.status();
        let expected = match self {
            Self::Grpc(_) => {
                let (head, body) = answer.into_parts();
                let trailers = body.trailers().cloned().unwrap_or(head.headers);
                return grpc_health::verdict(status, &body.to_bytes(), &trailers);
            }
            Self::Http { statuses, .. } if statuses.is_empty() => status.is_success(),
            Self::Http { statuses, .. } => statuses.contains(&status.as_u16()),
        };
        if expected { Ok(()) } else { Err(format!("answered {}", status.as_u16())) }
    }
}

/// An error with its causes.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The checks of one instance.
pub struct Checks {
    pub health: Health,
    probe: Arc<Probe>,
    /// The error of the last probe, if it failed.
    trouble: Mutex<Option<String>>,
}

impl Checks {
    pub fn new(probe: &Arc<Probe>, now_ns: u64) -> Self {
        let health = Health::new(probe.settings, now_ns);
        Self { health, probe: Arc::clone(probe), trouble: Mutex::default() }
    }

    /// Why the last probe failed, if it did.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Run the health checks of all known instances until the gateway ends.
pub async fn keep_checking(shared: &Arc<Shared>) {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    // Keyed by pointer, which stays unique while the `Arc` is held here.
    let mut checked: HashMap<usize, (Arc<Endpoint>, JoinSet<()>)> = HashMap::new();
    loop {
        let snapshot = shared.snapshot();
        let known: HashMap<_, _> = snapshot
            .upstreams
            .values()
            .filter(|upstream| upstream.probe.is_some())
            .flat_map(|upstream| upstream.endpoints.load_full().to_vec())
            .map(|endpoint| (Arc::as_ptr(&endpoint) as usize, endpoint))
            .collect();
        drop(snapshot);
        checked.retain(|key, _| known.contains_key(key));
        for (key, endpoint) in known {
            checked.entry(key).or_insert_with(|| {
                let mut task = JoinSet::new();
                task.spawn(check(Arc::clone(shared), Arc::clone(&endpoint), Arc::clone(&at_once)));
                (endpoint, task)
            });
        }
        shared.instances_changed.notified().await;
    }
}

/// Probe one instance at its interval.
async fn check(shared: Arc<Shared>, endpoint: Arc<Endpoint>, at_once: Arc<Semaphore>) {
    let Some(checks) = &endpoint.checks else { return };
    loop {
        match checks.health.turn(shared.nanoseconds(Instant::now()), fastrand::f64()) {
            Turn::Probe => {
                // The semaphore is never closed.
                let Ok(_permit) = at_once.acquire().await else { return };
                let snapshot = shared.snapshot();
                let Some(upstream) = snapshot.upstreams.get(&checks.probe.service) else { return };
                let outcome = checks.probe.send(&upstream.target(&endpoint), &endpoint.host).await;
                drop(snapshot);
                let now_ns = shared.nanoseconds(Instant::now());
                record(&endpoint, checks, outcome, now_ns);
            }
            Turn::Wait { until_ns } => {
                let wait = until_ns.saturating_sub(shared.nanoseconds(Instant::now()));
                tokio::time::sleep(Duration::from_nanos(wait)).await;
            }
            // Unreachable: only this task probes the instance, and it waits for each probe.
            Turn::UnderWay => return,
        }
    }
}

fn record(endpoint: &Endpoint, checks: &Checks, outcome: Result<(), String>, now_ns: u64) {
    let passed = outcome.is_ok();
    let Counts { passed: good, failed: bad } = &*checks.probe.counts;
    (if passed { good } else { bad }).fetch_add(1, Ordering::Relaxed);
    *checks.trouble.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
    if checks.health.outcome(passed, now_ns) == Some(State::Healthy) {
        // An instance that recovers goes through slow start like a new one.
        endpoint.since_ns.store(now_ns, Ordering::Relaxed);
    }
}

/// Metrics of services with health checks: probes by outcome, instances by state.
pub fn metrics(page: &mut Page, snapshot: &Snapshot) {
    let mut services: Vec<_> =
        snapshot.upstreams.iter().filter(|(_, upstream)| upstream.probe.is_some()).collect();
    services.sort_by_key(|(name, _)| *name);
    page.head("health_probes", "_total", "counter", "Health checks of instances by outcome.");
    for (name, upstream) in &services {
        let Counts { passed, failed } = &*upstream.probes;
        for (outcome, count) in [("passed", passed), ("failed", failed)] {
            let labels = [("service", name.as_str()), ("outcome", outcome)];
            page.sample("health_probes", "_total", &labels, count.load(Ordering::Relaxed));
        }
    }
    page.head("health_instances", "", "gauge", "Instances of a service by their health checks.");
    for (name, upstream) in &services {
        let endpoints = upstream.endpoints.load();
        for state in [State::Healthy, State::Unhealthy, State::Unchecked] {
            let is = |each: &&Arc<Endpoint>| {
                each.checks.as_ref().is_some_and(|checks| checks.health.view().state == state)
            };
            let labels = [("service", name.as_str()), ("health", state.name())];
            page.sample("health_instances", "", &labels, endpoints.iter().filter(is).count());
        }
    }
}

#[cfg(test)]
mod tests {
    use counterfoil_policy::balance::Candidate;
    use serde_json::json;

    use super::*;
    use crate::service::Upstream;

    fn service() -> Service {
        let document = json!({
            "protocol": "http/1.1", "concurrency": 1, "adaptive_concurrency": false, "least_concurrency": 1,
            "tenant_concurrency": 0, "queue": 0, "queue_timeout_seconds": 0.0, "connect_timeout_seconds": 1.0,
            "attempt_timeout_seconds": 1.0, "idle_timeout_seconds": null,
            "connection_idle_seconds": 4.0, "connection_age_seconds": 3600.0, "request_timeout_seconds": null,
            "attempts": 1, "retry_budget": 0.0, "hedge_after_seconds": null, "balance": "least_requests",
            "slow_start_seconds": 10.0, "panic_share": 0.0, "breaker_failures": 1, "breaker_ratio": null,
            "breaker_window_seconds": 1.0, "breaker_minimum": 1, "breaker_probes": 1,
            "breaker_open_seconds": 1.0, "tunnels": 1, "tunnel_idle_seconds": 1.0,
            "health": {
                "path": "/health", "interval_seconds": 1e-9, "timeout_seconds": 1.0,
                "failures": 2, "successes": 2, "statuses": [],
            },
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn an_instance_that_is_healthy_again_starts_slowly() {
        let upstream = Upstream::new("s", &service(), None, 0).unwrap();
        upstream.set_endpoints(vec![("s-1".into(), "127.0.0.1:1".into())], 0).unwrap();
        let endpoint = Arc::clone(&upstream.endpoints.load()[0]);
        let checks = endpoint.checks.as_ref().unwrap();
        let told = |outcome: Result<(), String>, now_ns| {
            assert_eq!(checks.health.turn(now_ns, 0.5), Turn::Probe);
            record(&endpoint, checks, outcome, now_ns);
        };
        for now_ns in [100, 200] {
            told(Ok(()), now_ns);
        }
        assert_eq!(endpoint.age_ns(1_000), 900, "since it is known to be healthy");
        for now_ns in [2_000, 3_000] {
            told(Err("answered 503".into()), now_ns);
        }
        assert!(endpoint.is_out());
        assert_eq!(checks.trouble().as_deref(), Some("answered 503"));
        for now_ns in [4_000, 5_000] {
            told(Ok(()), now_ns);
        }
        assert!(!endpoint.is_out() && checks.trouble().is_none());
        assert_eq!(endpoint.age_ns(6_000), 1_000);
    }

    #[test]
    fn a_path_that_can_not_stand_in_a_request_is_refused() {
        for path in ["health", "", "/a b"] {
            let mut service = service();
            service.health.as_mut().unwrap().path = path.into();
            let refused = Upstream::new("s", &service, None, 0).err().unwrap().to_string();
            assert!(refused.starts_with("service s: health: path: "), "{refused}");
        }
    }
}
