//! Exchanges with instances: a request out, its response back, in the service's protocol.
//!
//! `http1` asks in HTTP/1.1, one request at a time on a connection, `http2` in HTTP/2, many at a time.
//! What connects (`connect.rs`, and `tls` where that is spoken), what reads an answer (`gather.rs`) and passes
//! the rest of it on (`rest.rs`) is the same for both.

mod connect;
mod gather;
mod http1;
mod http2;
mod idle;
mod kept;
mod rest;
mod stream;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use tokio::time::Instant;

pub use self::connect::connect;
#[cfg(test)]
pub use self::rest::Remainder;
pub use self::rest::Rest;
pub use self::stream::{Reader, Writer};
use self::tls::Tls;
use crate::config::Protocol;
use crate::headers::{Added, text};
use crate::hints::Hints;
use crate::respond::Body;
use crate::upload::{Fault, Upload};

/// Events and messages of gRPC pass through as they come, and may be this far apart.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What went wrong with one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request never reached the instance.
    Connect,
    /// The instance says that it has not looked at the request.
    Refused,
    /// It may have reached it; nobody knows what became of it.
    Unknown,
    /// As `Unknown`, and the instance still had not answered at the end of its time.
    Late,
    /// The client did not send its body as it should; the instance has done nothing wrong.
    Client(Fault),
}

/// How long an instance may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// For its answer: the head, and the whole of it if it is small.
    pub answer: Duration,
    /// Between two parts of what passes through.
    pub idle: Duration,
    /// How long a connection is kept without a request, and for how long at all.
    pub lifetimes: Lifetimes,
}

/// How long connections are good for.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Between two requests.
    pub idle: Duration,
    /// From its beginning on; what is under way then goes on.
    pub age: Duration,
}

impl Timeouts {
    /// Until when an answer has to be here whole, if it is small, whose head has come just now. If the
    /// request's body was `streamed`, how long the client took over it is not counted against the instance.
    fn whole_until(&self, deadline: Instant, streamed: bool) -> Instant {
        if streamed { deadline.max(Instant::now() + self.idle) } else { deadline }
    }
}

impl Lifetimes {
    /// When a connection that begins now is too old. Those of a burst are told to go one after the other, up
    /// to a tenth sooner, so that an instance doesn't see all of them come anew at once.
    fn end(&self) -> Instant {
        Instant::now() + self.age.mul_f64(1.0 - fastrand::f64() / 10.0)
    }
}

/// Who is asked, and how.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub instance: &'a str,
    /// `host:port`.
    pub address: &'a str,
    pub protocol: Protocol,
    /// Where TLS is spoken.
    pub tls: Option<&'a Arc<Tls>>,
}

/// A request as an instance gets it.
pub struct Outgoing<'a> {
    pub parts: &'a Parts,
    pub added: Added<'a>,
    pub body: &'a mut Upload,
    /// Whether it may be carried out twice.
    pub repeatable: bool,
    /// Where what an instance says before its answer goes.
    pub hints: Option<Hints<'a>>,
}

/// Send one request to an instance and wait for its answer, until `now + answer`; for each further
/// part of one that passes through, in either direction, as long as they may be idle, or as events may
/// be apart.
pub async fn exchange(
    target: Target<'_>,
    request: Outgoing<'_>,
    now: Instant,
    timeouts: &Timeouts,
) -> Result<Response<Body>, Failure> {
    if target.protocol.is_http2() {
        return Box::pin(http2::exchange(target, request, now, timeouts)).await;
    }
    http1::exchange(target, request, now, timeouts).await
}

/// Whether an answer is a series of parts, each of which counts as soon as it is there.
fn is_series(headers: &HeaderMap) -> bool {
    let kind = text(headers, header::CONTENT_TYPE);
    kind.starts_with("text/event-stream") || kind.starts_with("application/grpc")
}
