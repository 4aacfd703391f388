//! Cache misses: asks the service, and stores what it answers.

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

/// One question to the service, which may outlive the request that it was asked for.
pub struct Fill {
    cache: Arc<Cache>,
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    parts: Parts,
    wanted: Wanted,
    /// What may turn out to be still right.
    stored: Option<Arc<Stored>>,
    seen: Seen,
}

/// What came of it.
pub enum Filled {
    /// An answer that is kept, or at least might have been: whole, and fit for others' conditions.
    Stored { stored: Arc<Stored>, forwarded: Forwarded },
    /// An answer that is not to be kept.
    Passed { answer: Box<Response<Body>>, forwarded: Forwarded },
    /// No answer, or one that says that the service can't; and what is stored of earlier.
    Failed { answer: Box<Response<Body>>, stored: Option<Arc<Stored>> },
}

/// Who answered, for the stub.
pub struct Asked {
    pub endpoint: Option<Arc<Endpoint>>,
    pub attempts: u32,
}

impl Fill {
    /// `keep_conditions`: the client's conditions go on to the service if there is nothing stored,
    /// since no other waits for the answer, and a 304 is all that the client wants.
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

    /// Ask on behalf of all that wait, and of the client that it began with for as long as that is
    /// there.
    pub async fn spawn(self, flight: Flight) -> Result<(Filled, Asked), Problem> {
        tokio::spawn(self.fly(flight)).await.map_err(|_| {
            Problem::new(StatusCode::BAD_GATEWAY, "the request to the service was given up").retry_after(1)
        })
    }

    /// Ask on nobody's behalf, for those that come later.
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

    /// Ask, and keep the answer if it may be kept.
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

    /// Take the fields of a 304 over into what is stored.
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

    /// Keep an answer if it may be kept, and is whole before it is too large.
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

    /// What was stored is no longer what the service says, and what it says is not stored. Nothing
    /// of that if it is this request alone whose answers are not.
    fn take_back(&self, refused: Refused, status: StatusCode, now_ns: u64) {
        let credentials = refused == Refused::Terms(Unstorable::Credentials);
        if self.wanted.directives.no_store || (credentials && self.wanted.tenant_key.is_none()) {
            return;
        }
        // That it was asked too early says nothing of any answer.
        if status == StatusCode::TOO_EARLY {
            return;
        }
        if let Some(stored) = &self.stored {
            self.cache.store.remove(self.wanted.key_of(stored), stored);
        }
        // An error, a part and a 304 say nothing of what the whole answer will be.
        if !status.is_server_error() && !matches!(status.as_u16(), 206 | 304) {
            self.cache.store.mark_pass(self.wanted.own_key(), now_ns);
        }
    }

    fn asked(&self) -> Presented<'_> {
        Presented { wanted: &self.wanted, headers: &self.parts.headers }
    }

    /// Why the service is asked, in the words of RFC 9211, section 2.2.
    fn reason(&self) -> &'static str {
        if self.stored.is_some() { "stale" } else { "uri-miss" }
    }

    fn failed(&self, mut answer: Response<Body>) -> Filled {
        answer::mark(&mut answer, &format!("fwd={}", self.reason()));
        Filled::Failed { answer: Box::new(answer), stored: self.stored.clone() }
    }
}

/// Ask the service, as one of as many requests as it may have.
pub async fn ask(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    parts: &Parts,
    seen: &mut Seen,
) -> Result<Response<Body>, Problem> {
    let admitted = admit(shared, upstream, seen).await?;
    // Collapsed misses and refreshes begin when they begin.
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
    /// With what was read of it put back.
    TooLarge(Body),
}

/// Read a body into memory of its own, unless it is larger than `limit`.
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

/// What was read is a part of a larger buffer; what is kept is its own size.
fn copied(read: &[u8]) -> Bytes {
    Bytes::copy_from_slice(read)
}
