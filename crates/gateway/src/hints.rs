//! Early Hints (103, RFC 8297): what a service says before its answer, so that a client can begin with
//! what the answer will ask for.
//!
//! They are advice: one that a client can't take at once is left out, and so is one too many. hyper's
//! servers have no call for answers of this kind. In HTTP/1.1, where requests are answered in their
//! order, one can be written beneath hyper while it has nothing to write itself (`io.rs`); in HTTP/2
//! and HTTP/3 the server is our own, and sends them.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::HeaderMap;
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

/// Hints that whoever serves the request sends as soon as it has come to wait for the answer, and the
/// bytes of all there were.
#[derive(Default)]
pub struct Waiting(Mutex<(Vec<HeaderMap>, usize)>);

impl Waiting {
    fn add(&self, headers: &HeaderMap) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (hints, bytes) = &mut *waiting;
        *bytes += headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        if *bytes <= LIMIT {
            hints.push(headers.clone());
        }
    }

    /// Those that have come since the last time.
    pub fn take(&self) -> Vec<HeaderMap> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// The interim answer that a hint is.
pub fn interim(headers: HeaderMap) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::EARLY_HINTS;
    *head.headers_mut() = headers;
    head
}
