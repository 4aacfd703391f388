//! The gateway's own answers to gRPC clients.
//!
//! A gRPC client reads its status from trailers, and can't interpret other answers. An answer without a body
//! has the status in its head ("Trailers-Only" in gRPC's PROTOCOL-HTTP2.md). Logs and metrics still have the
//! HTTP status.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::headers::text;
use crate::respond::{Body, Problem};

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A gRPC status code (statuscodes.md) and its message.
pub struct Status {
    code: u16,
    message: String,
}

impl Status {
    /// The gRPC status of a problem; `None` if the request isn't gRPC.
    pub fn of(problem: &Problem, asked: &HeaderMap) -> Option<Self> {
        let kind = text(asked, header::CONTENT_TYPE).strip_prefix(GRPC)?;
        let is_call = kind.is_empty() || kind.starts_with(['+', ';']);
        is_call.then(|| Self { code: code(problem.status), message: encoded(&problem.detail) })
    }

    /// Turn `response` into a Trailers-Only answer. Unrelated headers stay.
    pub fn replace(self, response: &mut Response<Body>) {
        *response.status_mut() = StatusCode::OK;
        *response.body_mut() = Body::Whole(bytes::Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert(GRPC_STATUS, self.code.into());
        if let Ok(message) = HeaderValue::try_from(self.message) {
            headers.insert(GRPC_MESSAGE, message);
        }
    }
}

fn code(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 3,              // INVALID_ARGUMENT
        401 => 16,             // UNAUTHENTICATED
        403 => 7,              // PERMISSION_DENIED
        404 | 405 | 501 => 12, // UNIMPLEMENTED
        408 | 504 => 4,        // DEADLINE_EXCEEDED
        413 | 429 | 431 => 8,  // RESOURCE_EXHAUSTED
        500 => 13,             // INTERNAL
        502 | 503 => 14,       // UNAVAILABLE
        _ => 2,                // UNKNOWN
    }
}

/// Encode a text for `grpc-message`: printable ASCII, the rest percent-encoded.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(content_type: &'static str) -> Option<Status> {
        let mut asked = HeaderMap::new();
        asked.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Status::of(&Problem::new(StatusCode::FORBIDDEN, "0 % für\nuns"), &asked)
    }

    #[test]
    fn only_calls_are_answered_in_words_of_grpc_and_these_fit_into_a_header() {
        for call in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            let status = status(call).unwrap();
            assert_eq!((status.code, status.message.as_str()), (7, "0 %25 f%C3%BCr%0Auns"));
        }
        for other in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            assert!(status(other).is_none(), "{other}");
        }
    }
}
