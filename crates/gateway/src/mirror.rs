//! Request mirroring: copies of a route's requests go to another service, whose answers are discarded, so
//! that a new version gets real traffic before any client depends on it.
//!
//! A copy never affects the client's request. It is made of the request to the instance (rewritten, with the
//! headers of hooks) just before an instance is asked, and runs in a task of its own; the request doesn't
//! wait for it. Its cost is bounded: the number of concurrent copies is limited, each shares a body that is
//! buffered in full anyway, and a copy over the limit is dropped and counted. A copy is sent once, to an
//! instance whose breaker and health checks admit it, and takes no place of the service's `concurrency`,
//! which is for clients. Its outcome does count for the instance's breaker: the instance is what failed.
//!
//! Streamed bodies are not mirrored: a copy would have to buffer the body until a slow service takes it, or
//! slow the client down. Upgrades and answers from the cache are not mirrored either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::Error;
use crate::attempt;
use crate::config::{self, Config};
use crate::metrics::{CLASSES, Page};
use crate::proxy::Seen;
use crate::respond::{Body, Problem};
use crate::route::Route;
use crate::service::Upstream;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::upload::Upload;

/// Larger bodies are not copied. The size up to which `upload` buffers a body; signed bodies can be larger.
const BODY_BYTES: usize = 64 * 1024;
/// How much of an answer is read and discarded so that its connection can be reused; after a longer one the
/// connection is closed.
const ANSWER_BYTES: usize = 1024 * 1024;
/// Tells services that no client waits for the answer. Clients can't set it: headers with this prefix aren't
/// forwarded.
const MIRRORED: HeaderName = HeaderName::from_static("x-counterfoil-mirrored");

pub struct Mirror {
    service: String,
    upstream: Arc<Upstream>,
    percent: f64,
    /// Limit of concurrent copies.
    most: usize,
    counts: Arc<Counts>,
}

/// Outcomes of the copies of a path for a service, in earlier and later configurations too.
#[derive(Default)]
pub struct Counts {
    under_way: AtomicUsize,
    sent: AtomicU64,
    /// Dropped: the limit of concurrent copies was reached.
    full: AtomicU64,
    /// Dropped: the body was too large, or streamed.
    body: AtomicU64,
    /// Dropped: no instance was available.
    unserved: AtomicU64,
    /// By class of status, 1xx to 5xx.
    answers: [AtomicU64; 5],
    unanswered: AtomicU64,
    /// Copies answered with another status class than the client's request.
    differed: AtomicU64,
}

/// A copy in flight, counted until dropped.
struct UnderWay(Arc<Counts>);

impl UnderWay {
    fn take(counts: &Arc<Counts>, most: usize) -> Option<Self> {
        let under_way = Self(Arc::clone(counts));
        let before = counts.under_way.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(under_way)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mirror {
    /// # Errors
    /// `Error::Config` for an unknown service.
    pub fn new(
        route: &config::Route,
        config: &config::Mirror,
        upstreams: &std::collections::HashMap<String, Arc<Upstream>>,
        counts: &BTreeMap<(String, String), Arc<Counts>>,
    ) -> Result<Arc<Self>, Error> {
        let upstream = upstreams.get(&config.service).cloned().ok_or_else(|| {
            Error::Config(format!("route {}: mirror: unknown service {}", route.path, config.service))
        })?;
        let counts = counts.get(&(route.path.clone(), config.service.clone())).cloned().unwrap_or_default();
        Ok(Arc::new(Self {
            service: config.service.clone(),
            upstream,
            percent: config.percent,
            most: config.concurrency,
            counts,
        }))
    }

    /// Start a copy of a request, if it is to be mirrored. Returns a channel for the status of the client's
    /// answer.
    fn copy(
        &self,
        shared: &Arc<Shared>,
        parts: &Parts,
        body: &Upload,
        seen: &Seen,
    ) -> Option<oneshot::Sender<StatusCode>> {
        if fastrand::f64() * 100.0 >= self.percent {
            return None;
        }
        let count = |count: &AtomicU64| _ = count.fetch_add(1, Ordering::Relaxed);
        let body = match body {
            Upload::Whole(body) if body.len() <= BODY_BYTES => body.clone(),
            Upload::Whole(_) | Upload::Stream(_) => {
                count(&self.counts.body);
                return None;
            }
            Upload::Upgrade(_) => return None,
        };
        let Some(under_way) = UnderWay::take(&self.counts, self.most) else {
            count(&self.counts.full);
            return None;
        };
        let mut parts = match &seen.rewrite {
            // The request itself will be refused with the same error.
            Some(rewrite) => rewrite.of(parts).ok()?,
            None => Box::new(parts.clone()),
        };
        // Extensions belong to the client's connection.
        parts.extensions.clear();
        let mut seen = seen.apart();
        seen.hooked.push((MIRRORED, HeaderValue::from_static("true")));
        let (tell, told) = oneshot::channel();
        let (upstream, counts) = (Arc::clone(&self.upstream), Arc::clone(&self.counts));
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let Some(answered) = send(&shared, &upstream, &parts, body, &seen).await else {
                count(&counts.unserved);
                return;
            };
            drop((under_way, seen, parts));
            counts.add(answered);
            // The channel is closed if the client has disconnected.
            if let (Some(answered), Ok(told)) = (answered, told.await)
                && class(answered) != class(told)
            {
                count(&counts.differed);
            }
        });
        Some(tell)
    }
}

impl Counts {
    fn add(&self, answered: Option<StatusCode>) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let count = answered.map_or(&self.unanswered, |status| &self.answers[class(status)]);
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn dropped(&self) -> [(&'static str, u64); 3] {
        [("full", &self.full), ("body", &self.body), ("no_instance", &self.unserved)]
            .map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }
}

fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, 5) - 1
}

/// Ask one instance and discard the answer. Returns its status, `Some(None)` if there was no answer, and
/// `None` if no instance was available.
async fn send(
    shared: &Shared,
    upstream: &Upstream,
    parts: &Parts,
    body: Bytes,
    seen: &Seen,
) -> Option<Option<StatusCode>> {
    let answer = attempt::attempt_once(shared, upstream, parts, body, seen).await?;
    let Ok(answer) = answer else { return Some(None) };
    let status = answer.status();
    if let body @ Body::Rest(_) = answer.into_body() {
        let mut rest = Limited::new(body, ANSWER_BYTES);
        // Part by part, without buffering.
        let read = async { while let Some(Ok(_)) = rest.frame().await {} };
        // On timeout the connection is closed.
        let _ = tokio::time::timeout(upstream.timeouts.answer, read).await;
    }
    Some(Some(status))
}

/// Like `attempt::attempt`, for a request that may be mirrored.
pub async fn attempt(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    parts: &Parts,
    body: &mut Upload,
    seen: &mut Seen,
    waited: bool,
) -> Result<Response<Body>, Problem> {
    // If a split has chosen the mirror's own service, there is nothing to compare.
    let mirror = seen.mirror.take().filter(|mirror| !std::ptr::eq(&*mirror.upstream, upstream));
    let told = mirror.and_then(|mirror| mirror.copy(shared, parts, body, seen));
    let answer = attempt::attempt(shared, upstream, parts, body, seen, waited).await;
    if let Some(told) = told {
        // The copy may have ended already.
        let _ = told.send(answer.as_ref().map_or_else(|problem| problem.status, Response::status));
    }
    answer
}

/// The counters of each mirror by path and service, taken over from `before`.
pub fn counts(config: &Config, before: Option<&Snapshot>) -> BTreeMap<(String, String), Arc<Counts>> {
    let mirrors = config
        .routes
        .iter()
        .filter_map(|route| Some((route.path.clone(), route.mirror.as_ref()?.service.clone())));
    mirrors
        .map(|mirror| {
            let known = before.and_then(|before| before.mirror_counts.get(&mirror));
            let counts = known.cloned().unwrap_or_default();
            (mirror, counts)
        })
        .collect()
}

/// Each mirror with the outcomes of its copies, for the admin port.
pub fn state(snapshot: &Snapshot) -> Vec<Value> {
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let told = |route: &Route| {
        let mirror = route.mirror.as_ref()?;
        let counts = &mirror.counts;
        Some(json!({
            "path": route.config.path,
            "service": mirror.service,
            "percent": mirror.percent,
            "under_way": counts.under_way.load(Ordering::Relaxed),
            "sent": load(&counts.sent),
            "dropped": counts.dropped().into_iter().collect::<BTreeMap<_, _>>(),
            "answers": counts.answers.each_ref().map(load),
            "unanswered": load(&counts.unanswered),
            "differed": load(&counts.differed),
        }))
    };
    snapshot.routes.iter().filter_map(told).collect()
}

/// Metrics of mirrors; none if no route has one.
pub fn metrics(page: &mut Page, snapshot: &Snapshot) {
    let mirrors = &snapshot.mirror_counts;
    if mirrors.is_empty() {
        return;
    }
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    page.head("mirror_copies", "_total", "counter", "Copies of requests that were sent, or dropped and why.");
    for ((path, service), counts) in mirrors {
        for (outcome, count) in [("sent", load(&counts.sent))].into_iter().chain(counts.dropped()) {
            let labels = [("route", path.as_str()), ("service", service), ("outcome", outcome)];
            page.sample("mirror_copies", "_total", &labels, count);
        }
    }
    page.head(
        "mirror_answers",
        "_total",
        "counter",
        "Answers to copies by class of status; none: no answer.",
    );
    for ((path, service), counts) in mirrors {
        let classes = CLASSES.into_iter().zip(&counts.answers);
        for (class, count) in classes.chain([("none", &counts.unanswered)]) {
            let labels = [("route", path.as_str()), ("service", service), ("status", class)];
            page.sample("mirror_answers", "_total", &labels, load(count));
        }
    }
    page.head(
        "mirror_differences",
        "_total",
        "counter",
        "Copies answered in another class than their clients.",
    );
    for ((path, service), counts) in mirrors {
        let labels = [("route", path.as_str()), ("service", service)];
        page.sample("mirror_differences", "_total", &labels, load(&counts.differed));
    }
    page.head("mirror_in_flight", "", "gauge", "Copies under way.");
    for ((path, service), counts) in mirrors {
        let labels = [("route", path.as_str()), ("service", service)];
        page.sample("mirror_in_flight", "", &labels, counts.under_way.load(Ordering::Relaxed));
    }
}
