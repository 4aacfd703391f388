//! Exchanges with instances: a request out, its answer back.
//!
//! `http1` asks in HTTP/1.1. What reads an answer (`gather.rs`) and passes the rest of it on (`rest.rs`)
//! does not depend on the protocol.

mod gather;
mod http1;
mod rest;

use std::time::Duration;

use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;

pub use self::http1::exchange;
pub use self::rest::Rest;
use crate::headers::{Added, text};
use crate::upload::{Fault, Upload};

/// Server-sent events pass through as they come, and may be this far apart.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What went wrong with one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request never reached the instance.
    Connect,
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
}

/// A request as an instance gets it.
pub struct Outgoing<'a> {
    pub parts: &'a Parts,
    pub added: Added<'a>,
    pub body: &'a mut Upload,
}

/// Whether an answer is a series of parts, each of which counts as soon as it is there.
fn is_series(headers: &HeaderMap) -> bool {
    text(headers, header::CONTENT_TYPE).starts_with("text/event-stream")
}
