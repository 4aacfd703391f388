//! The gateway's own answers, all of them problem documents (RFC 9457).

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};

pub type Body = BoxBody<Bytes, hyper::Error>;

/// What the gateway says in place of a service, and when to come back.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
    pub retry_after_seconds: Option<u64>,
    /// The methods that the path has, for a 405.
    pub allow: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after_seconds: None, allow: String::new() }
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    pub fn allow(mut self, methods: String) -> Self {
        self.allow = methods;
        self
    }

    pub fn into_response(self) -> Response<Body> {
        let document = serde_json::json!({
            "status": self.status.as_u16(),
            "title": self.status.canonical_reason().unwrap_or_default(),
            "detail": self.detail,
        });
        let mut response = Response::new(full(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert("retry-after", seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer error=\"invalid_token\""));
        }
        if let (false, Ok(methods)) = (self.allow.is_empty(), HeaderValue::from_str(&self.allow)) {
            headers.insert("allow", methods);
        }
        response
    }
}

pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed()
}
