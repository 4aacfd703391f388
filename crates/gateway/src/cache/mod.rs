//! The shared response cache (RFC 9111), for routes that enable it.
//!
//! `counterfoil_policy::caching` decides what may be stored and for how long. This module stores responses,
//! collapses concurrent requests and builds responses from stored ones.
//!
//! Isolation. On a route with an identity, a tenant never gets a response to another tenant, unless the
//! response says `public`: all others are stored by tenant and tier, which is what the service was told about
//! the client. As RFC 9111, section 3.5 requires, a response to a request with credentials is stored only if
//! it says `public`, `s-maxage` or `must-revalidate`. A key contains everything that determines the service
//! and its response (host, path and query as sent, the scheme and host that trusted proxies report, fields
//! added by hooks, and the fields that `Vary` names), so no client can store a response under a key where it
//! doesn't belong. A response with an effect (it carries `counterfoil-effect`) is never stored: each
//! access-log line of such a response stands for one effect.
//!
//! Collapsing. Of concurrent requests that miss the same key, one is forwarded, in a task of its own that
//! continues if its client hangs up; the others wait for it. If the result is not for them (a failure, a
//! response that is not stored, another variant) or takes too long, they are forwarded individually, within
//! the service's concurrency limit. A key whose response was not storable is remembered for a while; its
//! requests don't wait.
//!
//! Only complete responses are stored. A response is read to its end, up to the largest size that is stored,
//! before its head is sent; larger responses and event streams are passed through.

mod answer;
mod counts;
mod fill;
mod flights;
mod purge;
mod request;
mod store;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use counterfoil_policy::caching::freshness::{Rules, Use};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::cache::answer::{Forwarded, Served};
use crate::cache::fill::{Fill, Filled};
use crate::cache::flights::{Landing, Ticket};
use crate::cache::request::{Presented, Wanted};
use crate::cache::stored::Stored;
use crate::config;
use crate::proxy::Seen;
use crate::respond::{Body, Problem};
use crate::service::Upstream;
use crate::shared::Shared;

pub use counts::{Counts, Outcome, metrics, state};
pub use purge::{invalidate, purge};
pub use store::Store;

/// How often a request waits for another's response before it is forwarded: twice, since the first response
/// may have been another variant.
const WAITS: u32 = 2;

/// The cache of one route.
pub struct Cache {
    store: Arc<Store>,
    service: String,
    rules: Rules,
    max_object_bytes: usize,
    collapse_wait: Duration,
    request_directives: bool,
    tags_header: String,
}

impl Cache {
    pub fn new(config: &config::Cache, service: &str, store: &Arc<Store>) -> Self {
        let ns = |seconds: f64| (seconds * 1e9) as u64;
        Self {
            store: Arc::clone(store),
            service: service.to_owned(),
            rules: Rules {
                default_ttl_ns: ns(config.default_ttl_seconds),
                min_ttl_ns: ns(config.min_ttl_seconds),
                heuristic_limit_ns: ns(config.heuristic_limit_seconds),
                stale_while_revalidate_ns: ns(config.stale_while_revalidate_seconds),
                stale_if_error_ns: ns(config.stale_if_error_seconds),
                cookies: config.cookies,
            },
            max_object_bytes: config.max_object_bytes,
            collapse_wait: Duration::from_secs_f64(config.collapse_wait_seconds),
            request_directives: config.request_directives,
            tags_header: config.tags_header.to_ascii_lowercase(),
        }
    }
}

/// One request's context in the cache.
struct Asking<'a> {
    cache: &'a Arc<Cache>,
    shared: &'a Arc<Shared>,
    upstream: &'a Arc<Upstream>,
    parts: &'a Parts,
    wanted: Wanted,
}

/// Whether the cache applies to a request without a body.
pub fn concerns(parts: &Parts) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && request::can_be_stored_for(&parts.headers)
}

/// Answer a request for which `concerns` is true: from the store, with another request's response, or from
/// the service.
pub async fn serve(
    cache: &Arc<Cache>,
    shared: &Arc<Shared>,
    upstream: &Arc<Upstream>,
    parts: &Parts,
    seen: &mut Seen,
) -> Result<Response<Body>, Problem> {
    let wanted = Wanted::new(cache, parts, seen);
    let asking = Asking { cache, shared, upstream, parts, wanted };
    let mut answer = asking.answer(seen).await?;
    answer.headers_mut().remove(&cache.tags_header);
    Ok(answer)
}

impl Asking<'_> {
    async fn answer(&self, seen: &mut Seen) -> Result<Response<Body>, Problem> {
        let deadline = tokio::time::Instant::from_std(seen.started) + self.cache.collapse_wait;
        let mut now_ns = self.shared.nanoseconds(seen.started);
        for _ in 0..WAITS {
            let found = self.cache.store.find(self.asked(), now_ns);
            let stored = found.stored.as_ref();
            if let Some(answer) = self.out_of_store(stored, now_ns, seen) {
                return Ok(answer);
            }
            if self.wanted.directives.only_if_cached {
                return Err(Problem::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "there is no stored answer, and the request asks for none but that",
                ));
            }
            if self.parts.method == Method::HEAD || (stored.is_none() && self.wanted.range.is_some()) {
                return self.pass(seen).await;
            }
            let never_shared = stored.is_some_and(|(stored, _)| !stored.terms.ever_fresh());
            if found.pass || never_shared || self.wanted.insists() {
                break;
            }
            let flight = match stored {
                Some((stored, _)) => self.wanted.flight_of(stored),
                None => self.wanted.flight_of_new(found.selecting),
            };
            match self.cache.store.flights.board(flight) {
                Ticket::Lead(flight) => {
                    // Another request may have stored a response after `find` and before `board`.
                    let again = self.cache.store.find(self.asked(), now_ns).stored;
                    if let Some(answer) = self.out_of_store(again.as_ref(), now_ns, seen) {
                        flight.land(again.map_or(Landing::Passed, |(stored, _)| Landing::Stored(stored)));
                        return Ok(answer);
                    }
                    let fill = self.fill(seen, again.map(|(stored, _)| stored), false);
                    let (filled, fill) = fill.spawn(flight).await?;
                    seen.endpoint = fill.endpoint;
                    seen.attempts = fill.attempts;
                    return Ok(self.by_service(filled, seen));
                }
                Ticket::Follow(mut flight) => {
                    let landed = tokio::time::timeout_at(deadline, flight.landed()).await.ok().flatten();
                    now_ns = self.now_ns();
                    let answer = match landed {
                        Some(Landing::Stored(stored)) => self.by_another(&stored, now_ns, seen),
                        Some(Landing::Failed(status)) => {
                            let stale = stored.and_then(|(stored, _)| self.on_error(stored, status, seen));
                            let Some(answer) = stale else { break };
                            Some(answer)
                        }
                        Some(Landing::Passed) | None => break,
                    };
                    if let Some(answer) = answer {
                        return Ok(answer);
                    }
                }
            }
        }
        self.alone(seen).await
    }

    /// A response from the store, if it has a usable one.
    fn out_of_store(
        &self,
        stored: Option<&(Arc<Stored>, Option<u64>)>,
        now_ns: u64,
        seen: &mut Seen,
    ) -> Option<Response<Body>> {
        let (stored, purged_ns) = stored?;
        let served = match stored.terms.usable(&self.wanted.directives, now_ns, *purged_ns) {
            Use::Fresh => Served::Hit,
            Use::Stale => Served::Stale,
            Use::StaleWhileRevalidate => {
                if let Ticket::Lead(flight) = self.cache.store.flights.board(self.wanted.flight_of(stored)) {
                    self.fill(seen, Some(Arc::clone(stored)), false).send_off(flight);
                }
                Served::StaleWhileRevalidate
            }
            Use::Revalidate => return None,
        };
        seen.cache = if served == Served::Hit { Outcome::Hit } else { Outcome::Stale };
        Some(answer::of(stored, self.parts, now_ns, &served))
    }

    /// The response that another request fetched, if it also fits this one.
    fn by_another(&self, stored: &Arc<Stored>, now_ns: u64, seen: &mut Seen) -> Option<Response<Body>> {
        let (stored, purged_ns) = self.cache.store.good(stored, self.asked())?;
        let fresh = stored.terms.usable(&self.wanted.directives, now_ns, purged_ns) == Use::Fresh;
        fresh.then(|| {
            seen.cache = Outcome::Collapsed;
            answer::of(&stored, self.parts, now_ns, &Served::Collapsed)
        })
    }

    /// Fetch without collapsing.
    async fn alone(&self, seen: &mut Seen) -> Result<Response<Body>, Problem> {
        let now_ns = self.now_ns();
        let stored = self.cache.store.find(self.asked(), now_ns).stored;
        if let Some(answer) = self.out_of_store(stored.as_ref(), now_ns, seen) {
            return Ok(answer); // the awaited fetch was of another variant, but this one has been stored since
        }
        let stored = stored.map(|(stored, _)| stored);
        if stored.is_none() && self.wanted.range.is_some() {
            return self.pass(seen).await;
        }
        let (filled, fill) = self.fill(seen, stored, true).run().await;
        seen.endpoint = fill.endpoint;
        seen.attempts = fill.attempts;
        Ok(self.by_service(filled, seen))
    }

    /// Forward the request as it is; the response is not stored.
    async fn pass(&self, seen: &mut Seen) -> Result<Response<Body>, Problem> {
        seen.cache = Outcome::Bypass;
        let mut answer = fill::ask(self.shared, self.upstream, self.parts, seen).await?;
        answer::mark(&mut answer, &Forwarded::Bypass.to_string());
        Ok(answer)
    }

    /// The service's response, or a stale one in its place.
    fn by_service(&self, filled: Filled, seen: &mut Seen) -> Response<Body> {
        let now_ns = self.now_ns();
        match filled {
            Filled::Stored { stored, forwarded } => {
                seen.cache = match forwarded {
                    Forwarded::Validated { .. } => Outcome::Revalidated,
                    _ => Outcome::Miss,
                };
                answer::of(&stored, self.parts, now_ns, &Served::Forwarded(forwarded))
            }
            Filled::Passed { mut answer, forwarded } => {
                seen.cache = Outcome::Miss;
                answer::mark(&mut answer, &forwarded.to_string());
                *answer
            }
            Filled::Failed { answer, stored } => {
                let instead = stored.and_then(|stored| self.on_error(&stored, answer.status(), seen));
                instead.unwrap_or_else(|| {
                    seen.cache = Outcome::Miss;
                    *answer
                })
            }
        }
    }

    /// The stored response in place of an error, if it allows that.
    fn on_error(&self, stored: &Arc<Stored>, status: StatusCode, seen: &mut Seen) -> Option<Response<Body>> {
        let now_ns = self.now_ns();
        let (stored, purged_ns) = self.cache.store.good(stored, self.asked())?;
        stored.terms.usable_on_error(now_ns, purged_ns).then(|| {
            seen.cache = Outcome::StaleIfError;
            answer::of(&stored, self.parts, now_ns, &Served::StaleIfError(status))
        })
    }

    fn fill(&self, seen: &Seen, stored: Option<Arc<Stored>>, keep_conditions: bool) -> Fill {
        Fill::new(self, seen.apart(), stored, keep_conditions)
    }

    fn asked(&self) -> Presented<'_> {
        Presented { wanted: &self.wanted, headers: &self.parts.headers }
    }

    fn now_ns(&self) -> u64 {
        self.shared.nanoseconds(std::time::Instant::now())
    }
}
