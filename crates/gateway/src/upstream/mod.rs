//! Exchanges with instances: a request out, its response back, in the service's protocol.
//!
//! `http1` sends one request at a time on a connection, `http2` many. Connecting (`connect.rs`, and `tls`),
//! buffering a response (`gather.rs`) and streaming the rest of it (`rest.rs`) are the same for both.

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

/// The idle timeout of event streams and gRPC messages, which are forwarded as they arrive.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Why one attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, so the instance did not get the request.
    Connect,
    /// The instance reports that it did not process the request.
    Refused,
    /// The instance may have processed the request; the outcome is unknown.
    Unknown,
    /// As `Unknown`, because the timeout has passed.
    Late,
    /// The client failed to send its body; the instance is not at fault.
    Client(Fault),
}

/// Timeouts of an exchange.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For connecting.
    pub connect: Duration,
    /// For the head of the response, and for the body if it is small.
    pub answer: Duration,
    /// Between two parts of a streamed body.
    pub idle: Duration,
    pub lifetimes: Lifetimes,
}

/// How long connections are reused.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// The idle timeout.
    pub idle: Duration,
    /// The maximum age. Requests under way still complete.
    pub age: Duration,
}

impl Timeouts {
    /// The deadline for reading a small response completely, computed when its head arrives. The time that
    /// the client took for a `streamed` request body is not counted against the instance.
    fn whole_until(&self, deadline: Instant, streamed: bool) -> Instant {
        if streamed { deadline.max(Instant::now() + self.idle) } else { deadline }
    }
}

impl Lifetimes {
    /// When a new connection reaches its maximum age, reduced by up to a tenth at random, so that connections
    /// opened in a burst don't all have to be reopened at once.
    fn end(&self) -> Instant {
        Instant::now() + self.age.mul_f64(1.0 - fastrand::f64() / 10.0)
    }
}

/// The instance to send to, and how.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub instance: &'a str,
    /// `host:port`.
    pub address: &'a str,
    pub protocol: Protocol,
    /// Set if the service uses TLS.
    pub tls: Option<&'a Arc<Tls>>,
}

/// A request to an instance.
pub struct Outgoing<'a> {
    pub parts: &'a Parts,
    pub added: Added<'a>,
    pub body: &'a mut Upload,
    /// Whether it is safe to send it twice.
    pub repeatable: bool,
    /// Where to pass interim responses.
    pub hints: Option<Hints<'a>>,
}

/// Send one request to an instance and wait for its response until `now + answer`. Each part of a streamed
/// body, in either direction, has to follow within the idle timeout, or within `EVENT_TIMEOUT` for event
/// streams.
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

/// Whether a response is a stream of messages, each of which is to be forwarded at once.
fn is_series(headers: &HeaderMap) -> bool {
    let kind = text(headers, header::CONTENT_TYPE);
    kind.starts_with("text/event-stream") || kind.starts_with("application/grpc")
}
