//! Translates gRPC-Web to gRPC and back (gRPC's PROTOCOL-WEB.md), on routes that enable it.
//!
//! A browser page can neither read trailers nor demand HTTP/2. So gRPC-Web works over any version of HTTP,
//! with messages framed as in gRPC, and the trailers are sent as the last frame of the body. In the text form
//! both bodies are base64, for clients that can only read text.
//!
//! The request is translated right after routing, and the response right before CORS, so that identity,
//! limits, retries and the gateway's own errors only deal with gRPC.

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
/// The first byte of a frame that holds trailers instead of a message.
const TRAILERS: u8 = 0x80;
/// The status of a call. A response without messages has it in its head, which pages of other origins can
/// read only if CORS exposes it.
const ENDS: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// A call that arrived as gRPC-Web.
pub struct Call {
    /// Whether the response's body is base64.
    text: bool,
}

/// For a gRPC-Web content type: whether it is the text form, and what follows its name, such as `+proto`.
fn kind(content_type: &str) -> Option<(bool, &str)> {
    let rest = content_type.strip_prefix(WEB)?;
    let (text, rest) = match rest.strip_prefix(TEXT) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    (rest.is_empty() || rest.starts_with(['+', ';'])).then_some((text, rest))
}

impl Call {
    /// Translate a gRPC-Web request to gRPC; `None` for other requests.
    pub fn take(parts: &mut Parts, body: &mut RequestBody) -> Option<Self> {
        let (is_text, rest) = kind(text(&parts.headers, header::CONTENT_TYPE))?;
        let content_type = HeaderValue::try_from(format!("{GRPC}{rest}")).ok()?;
        // The response has the form in `Accept`, otherwise that of the request.
        let text = kind(text(&parts.headers, header::ACCEPT)).map_or(is_text, |(text, _)| text);
        parts.headers.insert(header::CONTENT_TYPE, content_type);
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if is_text {
            let coded = std::mem::replace(body, RequestBody::Taken);
            *body = RequestBody::Decoded(Box::new(Decoded::new(coded)));
        }
        Some(Self { text })
    }

    /// Translate a gRPC response to gRPC-Web. Other responses, such as those of intermediaries, stay as they
    /// are.
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

/// Encode trailers as the last frame of a body.
fn frame(trailers: &HeaderMap) -> Bytes {
    let mut frame = BytesMut::from(&[TRAILERS, 0, 0, 0, 0][..]);
    for (name, value) in trailers {
        frame.put_slice(name.as_str().as_bytes());
        frame.put_slice(b": ");
        frame.put_slice(value.as_bytes());
        frame.put_slice(b"\r\n");
    }
    // Can't overflow: headers are far smaller.
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
