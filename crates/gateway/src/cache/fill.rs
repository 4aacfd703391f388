//! Cache misses: fetches from the service and stores the response.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use counterfoil_policy::caching::freshness::{Times, Unstorable};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::header;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use crate::cache::answer::Forwarded;
use crate::cache::flights::{Flight, Landing};
use crate::cache::request::{Presented, Wanted, target};
use crate::cache::stored::{Refused, Stored};
use crate::cache::{Asking, Cache, answer};
use crate::mirror::attempt;
use crate::proxy::{Seen, admit};
use crate::respond::{Body, Problem};
use crate::service::{Endpoint, Upstream};
use crate::shared::{Shared, now_us};
use crate::upload::Upload;

/// One fetch from the service, which may outlive the request that caused it.
pub struct Fill {
    cache: Arc<Cache>,
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    parts: Parts,
    wanted: Wanted,
    /// The stored response to revalidate.
    stored: Option<Arc<Stored>>,
    seen: Seen,
}

/// The outcome of a fetch.
pub enum Filled {
    /// A complete response that may be stored. It answers any client's conditions and ranges.
    Stored { stored: Arc<Stored>, forwarded: Forwarded },
    /// A response that must not be stored.
    Passed { answer: Box<Response<Body>>, forwarded: Forwarded },
    /// No response, or one that reports a failure; and the response stored before.
    Failed { answer: Box<Response<Body>>, stored: Option<Arc<Stored>> },
}

/// The instance that answered and the number of attempts, for the access log.
pub struct Asked {
    pub endpoint: Option<Arc<Endpoint>>,
    pub attempts: u32,
}

impl Fill {
    /// `keep_conditions`: forward the client's conditions if nothing is stored. No other request waits for
    /// this response, and the client may only want a 304.
    pub(super) fn new(
        asking: &Asking<'_>,
        seen: Seen,
        stored: Option<Arc<Stored>>,
        keep_conditions: bool,
    ) -> Self {
        let mut parts = asking.parts.clone();
        if stored.is_some() || !keep_conditions {
            for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE] {
                parts.headers.remove(name);
            }
        }
        Self {
            cache: Arc::clone(asking.cache),
            shared: Arc::clone(asking.shared),
            upstream: Arc::clone(asking.upstream),
            parts,
            wanted: asking.wanted.clone(),
            stored,
            seen,
        }
    }

    /// Fetch on behalf of all waiting requests. The task continues if the first client hangs up.
    pub async fn spawn(self, flight: Flight) -> Result<(Filled, Asked), Problem> {
        tokio::spawn(self.fly(flight)).await.map_err(|_| {
            Problem::new(StatusCode::BAD_GATEWAY, "the request to the service was given up").retry_after(1)
        })
    }

    /// Fetch in the background, for later requests.
    pub fn send_off(self, flight: Flight) {
        tokio::spawn(self.fly(flight));
    }

    async fn fly(self, flight: Flight) -> (Filled, Asked) {
        let (filled, asked) = self.run().await;
        flight.land(match &filled {
            Filled::Stored { stored, .. } => Landing::Stored(Arc::clone(stored)),
            Filled::Passed { .. } => Landing::Passed,
            Filled::Failed { answer, .. } => Landing::Failed(answer.status()),
        });
        (filled, asked)
    }

    /// Fetch, and store the response if that is allowed.
    pub async fn run(mut self) -> (Filled, Asked) {
        let filled = self.ask().await;
        (filled, Asked { endpoint: self.seen.endpoint, attempts: self.seen.attempts })
    }

    async fn ask(&mut self) -> Filled {
        for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE] {
            if let Some(stored) = &self.stored {
                let validator =
                    if name == header::IF_NONE_MATCH { header::ETAG } else { header::LAST_MODIFIED };
                match stored.headers.get(validator) {
                    Some(value) => self.parts.headers.insert(name, value.clone()),
                    None => self.parts.headers.remove(name),
                };
            }
        }
        let asked_ns = self.shared.nanoseconds(Instant::now());
        let answer = match ask(&self.shared, &self.upstream, &self.parts, &mut self.seen).await {
            Ok(answer) => answer,
            Err(problem) => return self.failed(problem.into_response()),
        };
        let came_ns = self.shared.nanoseconds(Instant::now());
        let times = Times { asked_ns, came_ns, came_s: now_us() / 1_000_000 };
        match (answer.status(), self.stored.clone()) {
            (StatusCode::NOT_MODIFIED, Some(stored)) => self.refresh(&stored, &answer, times),
            (status, Some(_)) if matches!(status.as_u16(), 500 | 502..=504) => self.failed(answer),
            _ => self.keep(answer, times).await,
        }
    }

    /// Update the stored response with the fields of a 304.
    fn refresh(&mut self, stored: &Arc<Stored>, answer: &Response<Body>, times: Times) -> Filled {
        let target = target(&self.parts);
        let (refreshed, headers) =
            stored.refreshed(&self.cache, target, self.asked(), answer.headers(), times);
        let status = answer.status();
        let forwarded = |stored| Forwarded::Validated { status, stored };
        match refreshed {
            Ok(refreshed) => {
                let refreshed = Arc::new(refreshed);
                self.put(&refreshed);
                Filled::Stored { stored: refreshed, forwarded: forwarded(true) }
            }
            Err(refused) => {
                self.take_back(refused, status, times.came_ns);
                let mut answer = Response::new(Body::Whole(stored.body.clone()));
                *answer.status_mut() = stored.status;
                *answer.headers_mut() = headers;
                Filled::Passed { answer: Box::new(answer), forwarded: forwarded(false) }
            }
        }
    }

    /// Store a response if that is allowed and its body does not exceed the limit.
    async fn keep(&mut self, answer: Response<Body>, times: Times) -> Filled {
        let reason = self.reason();
        let (head, body) = answer.into_parts();
        let forwarded = |stored| Forwarded::Whole { reason, status: head.status, stored };
        let limit = self.cache.max_object_bytes;
        let target = target(&self.parts);
        let fit = Stored::of(&self.cache, target, self.asked(), (head.status, &head.headers), times);
        let large = body.size_hint().lower() > limit as u64;
        let mut stored = match fit {
            Ok(stored) if !large => stored,
            fit => {
                self.take_back(fit.err().unwrap_or(Refused::Size), head.status, times.came_ns);
                let forwarded = forwarded(false);
                return Filled::Passed { answer: Box::new(Response::from_parts(head, body)), forwarded };
            }
        };
        match whole(body, limit).await {
            Ok(Read::Whole(body)) => {
                stored.body = body;
                let stored = Arc::new(stored);
                self.put(&stored);
                Filled::Stored { stored, forwarded: forwarded(true) }
            }
            Ok(Read::TooLarge(body)) => {
                self.take_back(Refused::Size, head.status, times.came_ns);
                let forwarded = forwarded(false);
                Filled::Passed { answer: Box::new(Response::from_parts(head, body)), forwarded }
            }
            Err(_) => self.failed(no_answer()),
        }
    }

    fn put(&self, stored: &Arc<Stored>) {
        if let Some(before) = self.stored.as_ref().filter(|before| before.owner != stored.owner) {
            self.cache.store.remove(self.wanted.key_of(before), before);
        }
        self.cache.store.put(self.wanted.key_of(stored), stored);
    }

    /// Called when the service's response is not stored: drop the outdated one, and let later requests not
    /// wait for a shared response. Does nothing if only this request's responses are not storable.
    fn take_back(&self, refused: Refused, status: StatusCode, now_ns: u64) {
        let credentials = refused == Refused::Terms(Unstorable::Credentials);
        if self.wanted.directives.no_store || (credentials && self.wanted.tenant_key.is_none()) {
            return;
        }
        // 425 says nothing about later responses.
        if status == StatusCode::TOO_EARLY {
            return;
        }
        if let Some(stored) = &self.stored {
            self.cache.store.remove(self.wanted.key_of(stored), stored);
        }
        // Neither does an error, a part or a 304.
        if !status.is_server_error() && !matches!(status.as_u16(), 206 | 304) {
            self.cache.store.mark_pass(self.wanted.own_key(), now_ns);
        }
    }

    fn asked(&self) -> Presented<'_> {
        Presented { wanted: &self.wanted, headers: &self.parts.headers }
    }

    /// Why the request is forwarded: a value from RFC 9211, section 2.2.
    fn reason(&self) -> &'static str {
        if self.stored.is_some() { "stale" } else { "uri-miss" }
    }

    fn failed(&self, mut answer: Response<Body>) -> Filled {
        answer::mark(&mut answer, &format!("fwd={}", self.reason()));
        Filled::Failed { answer: Box::new(answer), stored: self.stored.clone() }
    }
}

/// Ask the service, within its concurrency limit.
pub async fn ask(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    parts: &Parts,
    seen: &mut Seen,
) -> Result<Response<Body>, Problem> {
    let admitted = admit(shared, upstream, seen).await?;
    // Collapsed misses and refreshes may start long after `seen.started`, hence `true`.
    let mut answer = attempt(shared, upstream, parts, &mut Upload::Whole(Bytes::new()), seen, true).await;
    if let Ok(Body::Rest(rest)) = answer.as_mut().map(Response::body_mut) {
        rest.keep(admitted);
    }
    answer
}

fn no_answer() -> Response<Body> {
    Problem::new(StatusCode::BAD_GATEWAY, "the service's answer did not arrive whole")
        .retry_after(1)
        .into_response()
}

enum Read {
    Whole(Bytes),
    /// Too large; what was read has been put back.
    TooLarge(Body),
}

/// Read a body into a buffer of its own, unless it is larger than `limit`.
async fn whole(mut body: Body, limit: usize) -> std::io::Result<Read> {
    if let Body::Whole(whole) = &body {
        return Ok(if whole.len() > limit { Read::TooLarge(body) } else { Read::Whole(copied(whole)) });
    }
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        read.extend_from_slice(&data);
        if read.len() > limit {
            if let Body::Rest(rest) = &mut body {
                rest.put_back(read.freeze());
            }
            return Ok(Read::TooLarge(body));
        }
    }
    Ok(Read::Whole(copied(&read)))
}

/// What was read may be part of a larger buffer; the copy has exactly its own size.
fn copied(read: &[u8]) -> Bytes {
    Bytes::copy_from_slice(read)
}
