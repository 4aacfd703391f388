//! The gateway's own answers: problem documents (RFC 9457).

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Response, StatusCode};

use crate::compression::Compressed;
use crate::grpc_web::Framed;
use crate::tunnel::Tunnel;
use crate::upstream::Rest;

/// The body of an answer.
pub enum Body {
    Whole(Bytes),
    Rest(Box<Rest>),
    Compressed(Box<Compressed>),
    /// gRPC, framed for a gRPC-Web client.
    Framed(Box<Framed>),
    /// Empty: after the answer the connection becomes a tunnel.
    Tunnel(Option<Box<Tunnel>>),
}

impl Body {
    /// Whether it is streamed from a service, of any length.
    pub fn passes_through(&self) -> bool {
        matches!(self, Self::Rest(_) | Self::Compressed(_) | Self::Framed(_))
    }

    /// Hold `kept` until the body has been sent.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        match self {
            Self::Rest(rest) => rest.keep(kept),
            Self::Compressed(compressed) => compressed.keep(kept),
            Self::Framed(framed) => framed.keep(kept),
            Self::Tunnel(Some(tunnel)) => tunnel.keep(kept),
            Self::Whole(_) | Self::Tunnel(None) => {}
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(whole) if whole.is_empty() => Poll::Ready(None),
            Self::Whole(whole) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(whole))))),
            Self::Rest(rest) => rest.poll_frame(cx),
            Self::Compressed(compressed) => compressed.poll_frame(cx),
            Self::Framed(framed) => framed.poll_frame(cx),
            Self::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_empty(),
            Self::Rest(rest) => rest.is_end_stream(),
            Self::Compressed(compressed) => compressed.is_end_stream(),
            Self::Framed(framed) => framed.is_end_stream(),
            Self::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Self::Rest(rest) => rest.size_hint(),
            Self::Compressed(_) | Self::Framed(_) => SizeHint::default(),
            Self::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

/// Drop the body of an answer to HEAD, but keep its length (RFC 9110, section 9.3.2). hyper's HTTP/1.1 server
/// does this itself; the HTTP/2 and HTTP/3 servers send what they are given.
pub fn head_only(response: &mut Response<Body>) {
    if let Body::Whole(whole) = response.body_mut()
        && !whole.is_empty()
    {
        let length = std::mem::take(whole).len();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Add what hyper's HTTP/1.1 server adds to an answer: Content-Length where it is known, and Date.
pub fn complete(parts: &mut Parts, body: &impl hyper::body::Body, asked_for_head: bool) {
    if !parts.headers.contains_key(header::DATE) {
        parts.headers.insert(header::DATE, date());
    }
    let bodiless = parts.status.is_informational() || matches!(parts.status.as_u16(), 204 | 304);
    if !bodiless
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
        // An empty body says nothing about the length that a GET would have.
        && !(asked_for_head && length == 0)
    {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// The value of `Date`, formatted once a second.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    LAST.with_borrow_mut(|(at, value)| {
        if *at != second {
            let written = HeaderValue::from_str(&httpdate::fmt_http_date(now));
            (*at, *value) = (second, written.unwrap_or(HeaderValue::from_static("")));
        }
        value.clone()
    })
}

/// The gateway's own error answer, in place of a service's.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: Cow<'static, str>,
    pub retry_after_seconds: Option<u64>,
    /// The value of Allow, for a 405.
    pub allow: String,
    /// Whether to close the connection (HTTP/1.1) without reading more.
    pub closes: bool,
    /// For a 401: whether the request had a token, but an invalid one (RFC 6750, section 3.1).
    pub bad_token: bool,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let (detail, allow) = (detail.into(), String::new());
        Self { status, detail, retry_after_seconds: None, allow, closes: false, bad_token: false }
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    pub fn allow(mut self, methods: String) -> Self {
        self.allow = methods;
        self
    }

    pub fn bad_token(mut self) -> Self {
        self.bad_token = true;
        self
    }

    pub fn close(mut self) -> Self {
        self.closes = true;
        self
    }

    pub fn into_response(self) -> Response<Body> {
        let document = serde_json::json!({
            "status": self.status.as_u16(),
            "title": self.status.canonical_reason().unwrap_or_default(),
            "detail": self.detail,
        });
        let mut response = Response::new(Body::Whole(document.to_string().into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert("retry-after", seconds.into());
        }
        if self.closes {
            headers.insert("connection", HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = if self.bad_token { "Bearer error=\"invalid_token\"" } else { "Bearer" };
            headers.insert("www-authenticate", HeaderValue::from_static(challenge));
        }
        if let (false, Ok(methods)) = (self.allow.is_empty(), HeaderValue::from_str(&self.allow)) {
            headers.insert("allow", methods);
        }
        response
    }
}
