//! Parses HTTP/1.1 responses of instances (RFC 9112): heads and body framing.
//!
//! A proxy reads one answer per request into a long-lived buffer, and forwards most of it unchanged. A parser
//! for this case alone costs a third of a general client. Ambiguous framing is rejected: if two parsers can
//! disagree on where an answer ends, one client may see another's answer.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::headers::{may_trail, of_one_connection};

const HEADERS: usize = 100;
const HEAD_BYTES: usize = 32 * 1024;
/// Limit of a chunk's size line, with extensions.
const LINE_BYTES: usize = 1024;
/// Limit of the trailer section.
const TRAILER_BYTES: usize = 8 * 1024;

/// The peer violated the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    /// Without hop-by-hop headers, and without Content-Length if a body follows.
    pub headers: HeaderMap,
    pub framing: Framing,
    /// Whether the connection can be reused after this answer.
    pub reusable: bool,
    /// How long the peer keeps the connection idle, if it says so.
    pub waits: Option<Duration>,
    /// The protocol that the connection switches to.
    pub upgrade: Option<HeaderValue>,
}

/// Parse a head from the front of `buffer`; `None` if it is incomplete.
pub fn head(buffer: &mut BytesMut, asked_for_head: bool) -> Result<Option<Head>, Malformed> {
    if buffer.is_empty() {
        return Ok(None); // common: once or twice per answer
    }
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, buffer, &mut slots)
        .map_err(|_| Malformed)?;
    let httparse::Status::Complete(length) = parsed else {
        return if buffer.len() < HEAD_BYTES { Ok(None) } else { Err(Malformed) };
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| Malformed)?;
    let (mut kept, mut closed, mut options) = (false, false, Vec::new());
    let mut content_length = None;
    let mut chunked = false;
    let (mut waits, mut upgrade) = (None, None);
    let start = buffer.as_ptr() as usize;
    let mut found = Vec::with_capacity(response.headers.len());
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed)?;
        match name.as_str() {
            "content-length" => {
                let length = length_of(header.value)?;
                if content_length.is_some_and(|other| other != length) {
                    return Err(Malformed);
                }
                content_length = Some(length);
                continue;
            }
            "transfer-encoding" if chunked || !header.value.eq_ignore_ascii_case(b"chunked") => {
                return Err(Malformed);
            }
            "transfer-encoding" => chunked = true,
            "keep-alive" => waits = waits_of(header.value),
            "upgrade" => upgrade = HeaderValue::from_bytes(header.value).ok(),
            "connection" if header.value.eq_ignore_ascii_case(b"keep-alive") => kept = true,
            "connection" => {
                for option in header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    match HeaderName::from_bytes(option) {
                        Ok(option) if option == "close" => closed = true,
                        Ok(option) if option == "keep-alive" => kept = true,
                        Ok(option) => options.push(option),
                        Err(_) => {}
                    }
                }
            }
            _ => {}
        }
        if !of_one_connection(name.as_str()) {
            let offset = header.value.as_ptr() as usize - start;
            found.push((name, offset..offset + header.value.len()));
        }
    }
    if chunked && content_length.is_some() {
        return Err(Malformed);
    }
    let persistent = response.version == Some(1);
    let raw = buffer.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(found.len() + 1);
    for (name, place) in found {
        headers.append(name, HeaderValue::from_maybe_shared(raw.slice(place)).map_err(|_| Malformed)?);
    }
    for option in options {
        headers.remove(option);
    }
    if let Some(length) = content_length
        && asked_for_head
    {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let bodiless = status.is_informational() || matches!(status.as_u16(), 204 | 304) || asked_for_head;
    let framing = match content_length {
        _ if bodiless => Framing::Done,
        _ if chunked => Framing::Chunked(Chunk::Size),
        Some(0) => Framing::Done,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let upgrade = upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
    let reusable = !closed && (kept || persistent) && framing != Framing::UntilClose;
    Ok(Some(Head { status, headers, framing, reusable, waits, upgrade }))
}

/// The timeout of `Keep-Alive` (`timeout=5, max=100`; RFC 2068, section 19.7.1.1): later RFCs omit it, but
/// servers still send it.
fn waits_of(value: &[u8]) -> Option<Duration> {
    let timeout = value.split(|byte| *byte == b',').find_map(|parameter| {
        let (name, value) = std::str::from_utf8(parameter).ok()?.trim().split_once('=')?;
        name.trim_end().eq_ignore_ascii_case("timeout").then(|| value.trim().parse().ok())
    });
    timeout.flatten().map(|seconds: u32| Duration::from_secs(seconds.into()))
}

/// Only digits: no sign, no list.
fn length_of(value: &[u8]) -> Result<u64, Malformed> {
    if !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}

/// The rest of a body (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Done,
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// The next element of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    Size,
    Data(u64),
    End,
    Trailers,
}

impl Framing {
    /// The minimum number of remaining bytes, as far as it is known.
    pub fn at_least(&self) -> u64 {
        match self {
            Self::Length(length) => *length,
            _ => 0,
        }
    }

    /// The connection has ended; fails if the body hasn't.
    pub fn close(&mut self) -> Result<(), Malformed> {
        match self {
            Self::Done => Ok(()),
            Self::UntilClose => {
                *self = Self::Done;
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    /// Take the next part of a body from the front of `buffer`, or its trailers; `None` at its end, and if
    /// more must be read.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
        loop {
            match self {
                Self::Done => return Ok(None),
                Self::UntilClose if buffer.is_empty() => return Ok(None),
                Self::UntilClose => return Ok(Some(Frame::data(buffer.split().freeze()))),
                Self::Length(_) | Self::Chunked(Chunk::Data(_)) if buffer.is_empty() => return Ok(None),
                Self::Length(left) => {
                    let part = part(buffer, left);
                    if *left == 0 {
                        *self = Self::Done;
                    }
                    return Ok(Some(Frame::data(part)));
                }
                Self::Chunked(Chunk::Data(left)) => {
                    let part = part(buffer, left);
                    if *left == 0 {
                        *self = Self::Chunked(Chunk::End);
                    }
                    return Ok(Some(Frame::data(part)));
                }
                Self::Chunked(chunk) => match chunk.pass(buffer)? {
                    Passed::On(next) => *chunk = next,
                    Passed::Whole(trailers) => {
                        *self = Self::Done;
                        return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                    }
                    Passed::NotYet => return Ok(None),
                },
            }
        }
    }
}

fn part(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    buffer.split_to(length).freeze()
}

/// Result of parsing the framing between two chunks.
enum Passed {
    On(Chunk),
    Whole(HeaderMap),
    NotYet,
}

impl Chunk {
    /// Parse the framing between two pieces of data.
    fn pass(self, buffer: &mut BytesMut) -> Result<Passed, Malformed> {
        match self {
            Self::Data(_) => Ok(Passed::NotYet),
            Self::Size => match httparse::parse_chunk_size(buffer).map_err(|_| Malformed)? {
                httparse::Status::Complete((length, size)) => {
                    // Some parsers accept a bare CR or LF as the line's end (RFC 9112, section 2.2); httparse
                    // does not.
                    if buffer[..length - 2].iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
                        return Err(Malformed);
                    }
                    buffer.advance(length);
                    Ok(Passed::On(if size == 0 { Self::Trailers } else { Self::Data(size) }))
                }
                httparse::Status::Partial if buffer.len() < LINE_BYTES => Ok(Passed::NotYet),
                httparse::Status::Partial => Err(Malformed),
            },
            Self::End if buffer.len() < 2 => Ok(Passed::NotYet),
            Self::End if buffer.starts_with(b"\r\n") => {
                buffer.advance(2);
                Ok(Passed::On(Self::Size))
            }
            Self::End => Err(Malformed),
            Self::Trailers if buffer.starts_with(b"\r\n") => {
                buffer.advance(2);
                Ok(Passed::Whole(HeaderMap::new()))
            }
            Self::Trailers => match buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) if end < TRAILER_BYTES => {
                    let section = buffer.split_to(end + 4);
                    trailers(&section).map(Passed::Whole)
                }
                None if buffer.len() < TRAILER_BYTES => Ok(Passed::NotYet),
                _ => Err(Malformed),
            },
        }
    }
}

/// Parse a trailer section that ends with an empty line, without trailers that would change how the message
/// was read (RFC 9110, section 6.5.1).
fn trailers(section: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS];
    match httparse::parse_headers(section, &mut slots) {
        Ok(httparse::Status::Complete((length, found))) if length == section.len() => {
            let mut trailers = HeaderMap::with_capacity(found.len());
            for each in found {
                let name = HeaderName::from_bytes(each.name.as_bytes()).map_err(|_| Malformed)?;
                let value = HeaderValue::from_bytes(each.value).map_err(|_| Malformed)?;
                if may_trail(name.as_str()) {
                    trailers.append(name, value);
                }
            }
            Ok(trailers)
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Read an answer that arrives in pieces; `None` if it is incomplete when the connection ends.
    fn read(pieces: &[&[u8]]) -> Result<Option<(Head, Vec<u8>)>, Malformed> {
        Ok(read_all(pieces)?.map(|(head, body, _)| (head, body)))
    }

    /// The same, with its trailers.
    fn read_all(pieces: &[&[u8]]) -> Result<Option<(Head, Vec<u8>, HeaderMap)>, Malformed> {
        let mut buffer = BytesMut::new();
        let mut answer: Option<(Head, Vec<u8>)> = None;
        let mut trailers = HeaderMap::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            if answer.is_none() {
                answer = head(&mut buffer, false)?.map(|head| (head, Vec::new()));
            }
            if let Some((head, body)) = &mut answer {
                while let Some(frame) = head.framing.take(&mut buffer)? {
                    match frame.into_data() {
                        Ok(part) => body.extend_from_slice(&part),
                        Err(frame) => trailers = frame.into_trailers().unwrap(),
                    }
                }
            }
        }
        Ok(match answer {
            Some((mut head, body)) => head.framing.close().is_ok().then_some((head, body, trailers)),
            None => None,
        })
    }

    fn whole(answer: &[u8]) -> Result<Option<(Head, Vec<u8>)>, Malformed> {
        read(&[answer])
    }

    #[test]
    fn how_long_an_instance_waits_is_told_in_several_ways_and_nonsense_tells_nothing() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout = 7", Some(7)),
            ("timeout=-1", None),
            ("timeout=5.5", None),
            ("timeout", None),
            ("timeout=99999999999", None),
            ("max=100", None),
        ] {
            assert_eq!(waits_of(value.as_bytes()), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(waits_of(b"timeout=\xff"), None);
    }

    #[test]
    fn an_answer_that_two_readers_might_end_at_different_places_is_refused() {
        for headers in [
            "content-length: 1\r\ncontent-length: 2",
            "content-length: 1, 1",
            "content-length: +1",
            "content-length: 0x1",
            "content-length:",
            "content-length: 99999999999999999999999",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: xchunked",
            "x y: 1",
            " folded: 1",
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n1\r\na\r\n0\r\n\r\n");
            assert!(whole(answer.as_bytes()).is_err(), "{headers}");
        }
        for body in [
            "\r\n",
            "5;\nx\r\nhello\r\n0\r\n\r\n",
            "g\r\n",
            "-1\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1ffffffffffffffff\r\n",
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
            assert!(!matches!(whole(answer.as_bytes()), Ok(Some(_))), "{body}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(HEAD_BYTES));
        assert!(whole(endless.as_bytes()).is_err());
        for trailer in ["x y: 1\r\n", " folded\r\n", "a: 1\n\nb: 2\r\n", "a\r\n"] {
            let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{trailer}\r\n");
            assert!(whole(answer.as_bytes()).is_err(), "{trailer}");
        }
        let trailer = "x: y\r\n".repeat(TRAILER_BYTES);
        let endless = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{trailer}\r\n");
        assert!(whole(endless.as_bytes()).is_err());
    }

    #[test]
    fn a_connection_is_reused_only_after_an_answer_with_an_end_of_its_own() {
        for (answer, reusable) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: x, Close\r\n\r\na", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\na", true),
            ("HTTP/1.1 200 OK\r\n\r\na", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", true),
        ] {
            let (head, _) = whole(answer.as_bytes()).unwrap().unwrap();
            assert_eq!(head.reusable, reusable, "{answer}");
        }
    }

    #[test]
    fn headers_of_the_connection_stay_behind() {
        let answer = "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nX-Hop: 1\r\nX-App: 2\r\nkeep-alive: 5\r\n\
                      content-length: 0\r\n\r\n";
        let (head, _) = whole(answer.as_bytes()).unwrap().unwrap();
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-app"]);
    }

    #[test]
    fn trailers_go_on_but_for_those_that_would_change_what_was_read() {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\
            grpc-status: 0\r\ncontent-length: 9\r\nx-counterfoil-tenant: t\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n";
        let (_, body, trailers) = read_all(&[answer]).unwrap().unwrap();
        assert_eq!(body, b"a");
        let found: Vec<_> =
            trailers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(found, [("grpc-status", "0"), ("x-sum", "1"), ("x-sum", "2")]);
    }

    proptest! {
        #[test]
        fn however_an_answer_is_cut_it_reads_the_same(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            framing in 0..3,
            cuts in prop::collection::vec(0usize..600, 0..12),
        ) {
            let body = chunks.concat();
            let mut answer = b"HTTP/1.1 200 OK\r\nx-app: 1\r\n".to_vec();
            match framing {
                0 => answer.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes().chain(body.clone())),
                1 => {
                    answer.extend(b"transfer-encoding: chunked\r\n\r\n");
                    for chunk in &chunks {
                        answer.extend(format!("{:x};a=b\r\n", chunk.len()).bytes());
                        answer.extend(chunk);
                        answer.extend(b"\r\n");
                    }
                    answer.extend(b"0\r\nx-trailer: 1\r\n\r\n");
                }
                _ => answer.extend(b"\r\n".iter().chain(&body)),
            }
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (answer.len() + 1)).collect();
            places.extend([0, answer.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|two| &answer[two[0]..two[1]]).collect();
            let (head, read_body, trailers) = read_all(&pieces).unwrap().unwrap();
            prop_assert_eq!(read_body, body);
            prop_assert_eq!(trailers.contains_key("x-trailer"), framing == 1);
            prop_assert_eq!(head.headers.get("x-app"), Some(&HeaderValue::from_static("1")));
            if framing < 2 {
                // One byte less is incomplete.
                prop_assert!(!matches!(read(&[&answer[..answer.len() - 1]]), Ok(Some(_))));
            }
        }

        #[test]
        fn whatever_comes_it_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            answer.extend(&bytes);
            let _ = whole(&answer);
            let _ = whole(&bytes);
        }
    }
}
