//! gRPC-Web made into gRPC and back (gRPC's PROTOCOL-WEB.md), on routes that ask for it.
//!
//! A page can neither read trailers nor ask that HTTP/2 be spoken. So a call comes by any protocol, with messages
//! framed as in gRPC, and what gRPC says in trailers goes back as one more frame, the last of the body. In the
//! text form both bodies are in base64, for clients that can read nothing but text.
//!
//! The request is changed before anything looks at it but its route, and the answer when all is done but CORS:
//! identity, limits, retries and the gateway's own refusals know of calls of gRPC alone.

mod decoded;
mod framed;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::Response;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;

use crate::headers::text;
use crate::request_body::RequestBody;
use crate::respond::Body;

pub use self::decoded::Decoded;
pub use self::framed::Framed;

const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web";
const TEXT: &str = "-text";
/// The first byte of a frame that has trailers in place of a message.
const TRAILERS: u8 = 0x80;
/// What says how a call ended. An answer without a message has it in its head, which pages of other origins
/// read only where CORS exposes it.
const ENDS: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// A call that came as gRPC-Web.
pub struct Call {
    /// Whether the answer's body is in base64.
    text: bool,
}

/// Whether a type is gRPC-Web's text form, and what follows its name, such as `+proto`; nothing for others.
fn kind(content_type: &str) -> Option<(bool, &str)> {
    let rest = content_type.strip_prefix(WEB)?;
    let (text, rest) = match rest.strip_prefix(TEXT) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    (rest.is_empty() || rest.starts_with(['+', ';'])).then_some((text, rest))
}

impl Call {
    /// Make a request into one of gRPC, if it is of gRPC-Web.
    pub fn take(parts: &mut Parts, body: &mut RequestBody) -> Option<Self> {
        let (is_text, rest) = kind(text(&parts.headers, header::CONTENT_TYPE))?;
        let content_type = HeaderValue::try_from(format!("{GRPC}{rest}")).ok()?;
        // The answer is as the client says that it reads it, or as it has asked.
        let text = kind(text(&parts.headers, header::ACCEPT)).map_or(is_text, |(text, _)| text);
        parts.headers.insert(header::CONTENT_TYPE, content_type);
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if is_text {
            let coded = std::mem::replace(body, RequestBody::Taken);
            *body = RequestBody::Decoded(Box::new(Decoded::new(coded)));
        }
        Some(Self { text })
    }

    /// Make an answer of gRPC into one of gRPC-Web. Others stay: they are of somebody who knows no gRPC.
    pub fn answer(&self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        let Some(rest) = text(headers, header::CONTENT_TYPE).strip_prefix(GRPC) else { return };
        let form = if self.text { TEXT } else { "" };
        let Ok(content_type) = HeaderValue::try_from(format!("{WEB}{form}{rest}")) else { return };
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRAILER);
        let mut ends = HeaderMap::new();
        for name in ENDS {
            if let Some(value) = headers.remove(&name) {
                ends.insert(name, value);
            }
        }
        let body = std::mem::replace(response.body_mut(), Body::Whole(Bytes::new()));
        *response.body_mut() = Body::Framed(Box::new(Framed::new(body, ends, self.text)));
    }
}

/// Trailers as the last frame of a body.
fn frame(trailers: &HeaderMap) -> Bytes {
    let mut frame = BytesMut::from(&[TRAILERS, 0, 0, 0, 0][..]);
    for (name, value) in trailers {
        frame.put_slice(name.as_str().as_bytes());
        frame.put_slice(b": ");
        frame.put_slice(value.as_bytes());
        frame.put_slice(b"\r\n");
    }
    // Headers are bounded by far less.
    let length = u32::try_from(frame.len() - 5).unwrap_or(u32::MAX);
    frame[1..5].copy_from_slice(&length.to_be_bytes());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_from_those_that_only_begin_alike() {
        for (given, wanted) in [
            ("application/grpc-web", Some((false, ""))),
            ("application/grpc-web+proto", Some((false, "+proto"))),
            ("application/grpc-web-text", Some((true, ""))),
            ("application/grpc-web-text+proto;x=y", Some((true, "+proto;x=y"))),
            ("application/grpc", None),
            ("application/grpc-web-texts", None),
            ("application/grpc-websocket", None),
            ("", None),
        ] {
            assert_eq!(kind(given), wanted, "{given}");
        }
    }

    #[test]
    fn trailers_are_one_frame() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(&frame(&trailers)[..], b"\x80\0\0\0\x10grpc-status: 0\r\n");
        assert_eq!(&frame(&HeaderMap::new())[..], b"\x80\0\0\0\0");
    }
}
