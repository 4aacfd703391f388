//! Early Hints (103, RFC 8297): what a service says before its answer, so that a client can begin with
//! what the answer will ask for. In HTTP/2 and HTTP/3 the 100 that asks for an offered body takes the same way;
//! in HTTP/1.1 hyper says it.
//!
//! They are advice: one that a client can't take at once is left out, and so is one too many. hyper's
//! servers have no call for answers of this kind. In HTTP/1.1, where requests are answered in their
//! order, one can be written beneath hyper while it has nothing to write itself (`io.rs`); in HTTP/2
//! and HTTP/3 the server is our own, and sends them.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, Version};

use crate::client::Client;

/// What waits for one client of HTTP/1.1 at most, and what is told of one answer in the protocols that
/// have many at a time: a page has a few dozen links of 100 bytes to tell of.
const LIMIT: usize = 16 * 1024;

/// Where the hints of one request go.
#[derive(Clone, Copy)]
pub enum Hints<'a> {
    Http1(&'a Client),
    Stream(&'a Waiting),
}

impl<'a> Hints<'a> {
    /// The way to whoever asks, if it is one that knows hints.
    pub fn to(client: &'a Client, parts: &'a Parts) -> Option<Self> {
        match parts.version {
            Version::HTTP_11 => Some(Self::Http1(client)),
            Version::HTTP_2 | Version::HTTP_3 => {
                parts.extensions.get::<Arc<Waiting>>().map(|waiting| Self::Stream(waiting))
            }
            _ => None,
        }
    }

    /// Pass on what an instance says, if it is a hint.
    pub fn tell(self, status: StatusCode, headers: &HeaderMap) {
        if status != StatusCode::EARLY_HINTS {
            return;
        }
        match self {
            Self::Http1(client) => client.write_early(&written(headers), LIMIT),
            Self::Stream(waiting) => waiting.add(headers),
        }
    }
}

fn written(headers: &HeaderMap) -> Vec<u8> {
    let mut head = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Interim answers that whoever serves the request sends as soon as it has come to wait for the answer, and the
/// bytes of all hints there were.
#[derive(Default)]
pub struct Waiting(Mutex<(Vec<Response<()>>, usize)>);

impl Waiting {
    fn add(&self, headers: &HeaderMap) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (interim, bytes) = &mut *waiting;
        *bytes += headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        if *bytes <= LIMIT {
            let mut hint = Response::new(());
            *hint.status_mut() = StatusCode::EARLY_HINTS;
            *hint.headers_mut() = headers.clone();
            interim.push(hint);
        }
    }

    /// Ask for the body that a client offers (RFC 9110, section 10.1.1).
    fn add_continue(&self) {
        let mut wanted = Response::new(());
        *wanted.status_mut() = StatusCode::CONTINUE;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(wanted);
    }

    /// Those that have come since the last time.
    pub fn take(&self) -> Vec<Response<()>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// A body that its client keeps back until it is asked for it, which is when it is waited for: once, and not where
/// it comes by itself.
#[derive(Default)]
pub struct Offer(Option<Arc<Waiting>>);

impl Offer {
    /// Whether a request has such a body is said by its `headers`.
    pub fn of(headers: &HeaderMap, waiting: &Arc<Waiting>) -> Self {
        let offers = headers.get(header::EXPECT);
        let offers = offers.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self(offers.then(|| Arc::clone(waiting)))
    }

    /// It is waited for.
    pub fn accept(&mut self) {
        if let Some(waiting) = self.0.take() {
            waiting.add_continue();
        }
    }

    /// It comes by itself.
    pub fn withdraw(&mut self) {
        self.0 = None;
    }
}
