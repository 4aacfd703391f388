//! Targets of `make fuzz`: parsers of untrusted bytes, each with its invariant. Compiled only for the fuzzer.

use bytes::BytesMut;
use hyper::Request;

use crate::http1::head;
use crate::proxy_protocol::header;
use crate::{ambiguity, identity};

/// An instance's answer, at once and in two pieces: if both are read completely, the results are equal.
pub fn answer(bytes: &[u8]) {
    let (cut, bytes) = bytes.split_first().map_or((0, bytes), |(first, rest)| (usize::from(*first), rest));
    let (before, after) = bytes.split_at(cut.min(bytes.len()));
    if let (Some(at_once), Some(in_pieces)) = (read(&[bytes]), read(&[before, after])) {
        assert_eq!(at_once, in_pieces);
    }
}

/// Status and content, if the answer is complete.
fn read(pieces: &[&[u8]]) -> Option<(u16, Vec<u8>)> {
    let (mut buffer, mut begun, mut content) = (BytesMut::new(), None, Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if begun.is_none() {
            begun = head(&mut buffer, false).ok()?;
        }
        if let Some(head) = &mut begun {
            while let Some(frame) = head.framing.take(&mut buffer).ok()? {
                if let Ok(part) = frame.into_data() {
                    content.extend_from_slice(&part);
                }
            }
        }
    }
    let mut head = begun?;
    head.framing.close().ok()?;
    Some((head.status.as_u16(), content))
}

/// A token, as a client sends it.
pub fn token(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = identity::token::Token::parse(text)
    {
        let _ = (token.key_id(), token.is_from("https://issuer.test"));
    }
}

/// Keys, as an issuer publishes them.
pub fn keys(bytes: &[u8]) {
    let _ = identity::keys::parse(bytes);
}

/// A PROXY protocol header: however it is split, the result is the same.
pub fn announcement(bytes: &[u8]) {
    let whole = header::parse(bytes);
    for length in 0..bytes.len() {
        match header::parse(&bytes[..length]) {
            Ok(header::Header::Partial) => {}
            settled => assert_eq!(settled, whole),
        }
    }
}

/// A path: a checked path has no `.` or `..` segment and no zero byte.
pub fn path(bytes: &[u8]) {
    let Ok(request) = Request::builder().uri(bytes).header("host", "shop.test").body(()) else { return };
    let (parts, ()) = request.into_parts();
    if let Ok(path) = ambiguity::checked_path(&parts) {
        assert!(!path.split(['/', '\\']).any(|segment| segment == ".." || segment == "."), "{path:?}");
        assert!(!path.contains('\0'), "{path:?}");
    }
}
