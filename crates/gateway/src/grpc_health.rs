//! The gRPC health protocol (`grpc.health.v1.Health`, method `Check`), for health checks of instances.
//!
//! The request is one message with a service name, the answer one with an enum: two protobuf fields, simple
//! enough to encode by hand. Only `SERVING` passes. Everything else fails, `UNIMPLEMENTED` too: a server
//! without the protocol fails at its first probe with that reason, rather than always passing as healthy.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName};

use crate::headers::text;

pub const METHOD: &str = "/grpc.health.v1.Health/Check";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Tags of field 1: a string in the request, a varint in the answer.
const SERVICE: u8 = 1 << 3 | 2;
const STATUS: u64 = 1 << 3;
/// Length of a message's frame header: compression flag and length.
const FRAME: usize = 5;
/// The longest name whose length fits in one byte.
pub const NAME_BYTES: usize = 127;

/// Encode the request: for a service, or for the whole server if the name is empty. A name longer than
/// `NAME_BYTES` bytes is truncated.
pub fn question(service: &str) -> Bytes {
    let name = &service.as_bytes()[..service.len().min(NAME_BYTES)];
    let mut message = Vec::with_capacity(FRAME + 2 + name.len());
    let length = if name.is_empty() { 0 } else { name.len() as u8 + 2 };
    message.extend([0, 0, 0, 0, length]);
    if !name.is_empty() {
        message.extend([SERVICE, name.len() as u8]);
        message.extend(name);
    }
    message.into()
}

/// Check that an answer says `SERVING`. `trailers` are the last headers of the answer, which are the first
/// ones if there is no message.
///
/// # Errors
/// What it says instead, as a readable text.
pub fn verdict(status: StatusCode, body: &[u8], trailers: &HeaderMap) -> Result<(), String> {
    if status != StatusCode::OK {
        return Err(format!("answered {}, as no server of gRPC does", status.as_u16()));
    }
    match text(trailers, GRPC_STATUS) {
        "0" => {}
        "5" => return Err("the server knows no such service (NOT_FOUND)".into()),
        "12" => return Err("the server has no health protocol (UNIMPLEMENTED)".into()),
        "" => return Err("answered without a grpc-status".into()),
        other => return Err(format!("answered with the grpc-status {other}")),
    }
    match serving_status(body) {
        Some(1) => Ok(()),
        Some(0) => Err("answered UNKNOWN".into()),
        Some(2) => Err("answered NOT_SERVING".into()),
        Some(3) => Err("answered SERVICE_UNKNOWN".into()),
        Some(other) => Err(format!("answered the unknown status {other}")),
        None => Err("answered with no message of the health protocol".into()),
    }
}

/// Field 1 of the message in a body, 0 if it is missing. Unknown fields are skipped.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (head, mut message) = body.split_at_checked(FRAME)?;
    let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?);
    if head.first() != Some(&0) || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = number(&mut message)?;
        match tag & 7 {
            0 => {
                let value = number(&mut message)?;
                if tag == STATUS {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// Decode a protobuf varint: seven bits per byte, least significant first.
fn number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn told(grpc_status: &'static str, body: &[u8]) -> Result<(), String> {
        let mut trailers = HeaderMap::new();
        if !grpc_status.is_empty() {
            trailers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status));
        }
        verdict(StatusCode::OK, body, &trailers)
    }

    #[test]
    fn a_question_is_the_bytes_that_the_schema_makes() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 10, 3, b'a', b'.', b'B']);
        assert_eq!(question(&"x".repeat(500)).len(), FRAME + 2 + NAME_BYTES);
    }

    #[test]
    fn serving_is_the_one_good_answer() {
        let answer = |status: u8| [0, 0, 0, 0, 2, 8, status];
        assert_eq!(told("0", &answer(1)), Ok(()));
        for (status, said) in [(0, "UNKNOWN"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN"), (9, "status 9")] {
            assert!(told("0", &answer(status)).unwrap_err().ends_with(said), "{status}");
        }
        assert_eq!(told("0", &[0, 0, 0, 0, 0]).unwrap_err(), "answered UNKNOWN");
        for (grpc_status, said) in
            [("5", "NOT_FOUND"), ("12", "UNIMPLEMENTED"), ("14", "grpc-status 14"), ("", "without")]
        {
            assert!(told(grpc_status, &answer(1)).unwrap_err().contains(said), "{grpc_status}");
        }
        let other = verdict(StatusCode::NOT_FOUND, b"", &HeaderMap::new());
        assert_eq!(other.unwrap_err(), "answered 404, as no server of gRPC does");
    }

    #[test]
    fn fields_that_are_unknown_are_passed_over_and_what_is_no_message_is_none() {
        let unknown = [0x12, 2, b'h', b'i', 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4, 0x28, 0x96, 1];
        let mut body = vec![0, 0, 0, 0, unknown.len() as u8 + 2];
        body.extend(unknown);
        body.extend([8, 1]);
        assert_eq!(told("0", &body), Ok(()));
        for wrong in [
            &b""[..],
            &[0, 0, 0, 0, 3, 8, 1],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 2, 8, 1, 0],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 1, 0x0b],
        ] {
            assert!(told("0", wrong).unwrap_err().contains("no message"), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_an_instance_answers_is_read_to_its_end(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = serving_status(&body);
            let framed = [&[0, 0, 0, 0, body.len() as u8][..], &body].concat();
            let _ = serving_status(&framed);
        }
    }
}
