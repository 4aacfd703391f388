//! Early Hints (103, RFC 8297): interim answers by which a client can preload what the final answer will
//! need. In HTTP/2 and HTTP/3 the interim 100 that asks for an offered body takes the same path; in HTTP/1.1
//! hyper sends it.
//!
//! Hints are advisory: one that can't be sent at once is dropped, and so are those over the limit. hyper's
//! servers can't send interim answers. In HTTP/1.1, where requests are answered in order, a hint is written
//! beneath hyper while hyper has nothing to write (`io.rs`); in HTTP/2 and HTTP/3 the gateway's own server
//! sends it.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, Version};

use crate::client::Client;

/// Maximum bytes of hints queued for an HTTP/1.1 client, or sent for one answer over HTTP/2 and HTTP/3: a
/// page has a few dozen links of 100 bytes.
const LIMIT: usize = 16 * 1024;

/// The destination of a request's hints.
#[derive(Clone, Copy)]
pub enum Hints<'a> {
    Http1(&'a Client),
    Stream(&'a Waiting),
}

impl<'a> Hints<'a> {
    /// The destination for this client; `None` if its protocol has no hints.
    pub fn to(client: &'a Client, parts: &'a Parts) -> Option<Self> {
        match parts.version {
            Version::HTTP_11 => Some(Self::Http1(client)),
            Version::HTTP_2 | Version::HTTP_3 => {
                parts.extensions.get::<Arc<Waiting>>().map(|waiting| Self::Stream(waiting))
            }
            _ => None,
        }
    }

    /// Forward an interim answer of an instance, if it is a hint.
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

/// Interim answers that the stream's task sends once it waits for the final answer, and the total bytes of
/// all hints so far.
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

    /// Queue a 100 that asks for an offered body (RFC 9110, section 10.1.1).
    fn add_continue(&self) {
        let mut wanted = Response::new(());
        *wanted.status_mut() = StatusCode::CONTINUE;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(wanted);
    }

    /// Take the queued interim answers.
    pub fn take(&self) -> Vec<Response<()>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// A body that its client withholds until asked (`Expect: 100-continue`). It is asked for once, when it is
/// first awaited, and not if it arrives unasked.
#[derive(Default)]
pub struct Offer(Option<Arc<Waiting>>);

impl Offer {
    /// Whether there is an offer depends on the request's `headers`.
    pub fn of(headers: &HeaderMap, waiting: &Arc<Waiting>) -> Self {
        let offers = headers.get(header::EXPECT);
        let offers = offers.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self(offers.then(|| Arc::clone(waiting)))
    }

    /// The body is awaited: ask for it.
    pub fn accept(&mut self) {
        if let Some(waiting) = self.0.take() {
            waiting.add_continue();
        }
    }

    /// The body arrives unasked.
    pub fn withdraw(&mut self) {
        self.0 = None;
    }
}
