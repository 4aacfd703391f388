//! Responses to clients from stored ones: complete, a range, the head only, or 304; and where they came from
//! (`Age`; `Cache-Status`, RFC 9211).

use std::fmt;

use bytes::Bytes;
use counterfoil_policy::caching::range::Range;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::cache::stored::{Stored, seconds_since_1970};
use crate::respond::Body;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const NS_PER_S: u64 = 1_000_000_000;
/// The fields of a 304 (RFC 9110, section 15.4.5).
const IN_A_304: [HeaderName; 7] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::VARY,
];

/// Why a stored response was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    Hit,
    /// The client accepts stale responses.
    Stale,
    StaleWhileRevalidate,
    /// The service failed with this status, or with the gateway's own if it could not be reached.
    StaleIfError(StatusCode),
    /// Another request fetched it.
    Collapsed,
    /// This request fetched it.
    Forwarded(Forwarded),
}

/// How a request was forwarded to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache does not apply to this request.
    Bypass,
    /// `reason`: a value from RFC 9211, section 2.2.
    Whole { reason: &'static str, status: StatusCode, stored: bool },
    /// The stored response was revalidated.
    Validated { status: StatusCode, stored: bool },
}

impl fmt::Display for Forwarded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, status, stored) = match self {
            Self::Bypass => return out.write_str("fwd=bypass"),
            Self::Whole { reason, status, stored } => (*reason, status, *stored),
            Self::Validated { status, stored } => ("stale", status, *stored),
        };
        let stored = if stored { "; stored" } else { "" };
        write!(out, "fwd={reason}; fwd-status={}{stored}", status.as_u16())
    }
}

/// Append to `Cache-Status`, after the values from caches closer to the service.
pub fn mark(answer: &mut Response<Body>, how: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("counterfoil; {how}")) {
        answer.headers_mut().append(CACHE_STATUS, value);
    }
}

/// The response to a request (GET or HEAD) from a stored one.
pub fn of(stored: &Stored, request: &Parts, now_ns: u64, served: &Served) -> Response<Body> {
    let mut answer = selected(stored, request);
    let age_s = stored.terms.age_ns(now_ns) / NS_PER_S;
    // A response that has just arrived from the service keeps its own `Age`, if any.
    if !matches!(served, Served::Forwarded(_)) || stored.headers.contains_key(header::AGE) {
        answer.headers_mut().insert(header::AGE, age_s.into());
    }
    let fresh_for_s = stored.terms.fresh_for_ns(now_ns).div_euclid(NS_PER_S as i64);
    let how = match served {
        Served::Hit | Served::Stale => format!("hit; ttl={fresh_for_s}"),
        Served::StaleWhileRevalidate => format!("hit; ttl={fresh_for_s}; detail=stale-while-revalidate"),
        Served::StaleIfError(status) => {
            format!("fwd=stale; fwd-status={}; detail=stale-if-error", status.as_u16())
        }
        Served::Collapsed => "fwd=uri-miss; collapsed".to_owned(),
        Served::Forwarded(forwarded) => forwarded.to_string(),
    };
    mark(&mut answer, &how);
    answer
}

fn selected(stored: &Stored, request: &Parts) -> Response<Body> {
    let given = &request.headers;
    if stored.status == StatusCode::OK && has_it(stored, given) {
        let mut headers = HeaderMap::with_capacity(IN_A_304.len() + 3);
        for name in &IN_A_304 {
            for value in stored.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        return with(StatusCode::NOT_MODIFIED, headers, Bytes::new());
    }
    let mut headers = stored.headers.clone();
    let length = stored.body.len() as u64;
    if request.method == Method::HEAD {
        if !matches!(stored.status.as_u16(), 204 | 205) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        return with(stored.status, headers, Bytes::new());
    }
    match range(stored, given, length) {
        Range::Whole => with(stored.status, headers, stored.body.clone()),
        Range::Part { first, last } => {
            insert(&mut headers, &format!("bytes {first}-{last}/{length}"));
            // Both lie within a body, whose length is a usize.
            with(StatusCode::PARTIAL_CONTENT, headers, stored.body.slice(first as usize..=last as usize))
        }
        Range::Unsatisfiable => {
            let mut headers = HeaderMap::new();
            insert(&mut headers, &format!("bytes */{length}"));
            with(StatusCode::RANGE_NOT_SATISFIABLE, headers, Bytes::new())
        }
    }
}

/// Whether the client's conditions match, so that 304 is the response.
fn has_it(stored: &Stored, given: &HeaderMap) -> bool {
    let lines = given.get_all(header::IF_NONE_MATCH).into_iter().map(HeaderValue::as_bytes);
    let since = given.get(header::IF_MODIFIED_SINCE).and_then(|value| seconds_since_1970(value.as_bytes()));
    stored.validators.not_modified(lines, since)
}

/// The range that the client asks for: everything, if the range refers to another version (`If-Range`).
fn range(stored: &Stored, given: &HeaderMap, length: u64) -> Range {
    let Some(range) = given.get(header::RANGE).filter(|_| stored.status == StatusCode::OK) else {
        return Range::Whole;
    };
    if let Some(state) = given.get(header::IF_RANGE).map(HeaderValue::as_bytes)
        && !stored.validators.in_range_of(state, seconds_since_1970(state))
    {
        return Range::Whole;
    }
    Range::of(range.as_bytes(), length)
}

fn insert(headers: &mut HeaderMap, content_range: &str) {
    if let Ok(value) = HeaderValue::from_str(content_range) {
        headers.insert(header::CONTENT_RANGE, value);
    }
}

fn with(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::Whole(body));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}
