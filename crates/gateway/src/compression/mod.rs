//! Response compression, for routes that enable it.
//!
//! It is the last that is done to an answer, after the cache and the stub: the cache keeps the bytes
//! of the service, one copy for clients of every coding, and its ranges and conditions are those of
//! these bytes. That a hit is compressed anew each time is its price.
//!
//! What a client gets is another representation of the same thing, so its `ETag` becomes a weak one
//! (RFC 9110, section 8.8.1), by which `If-None-Match` finds it all the same, and `Vary` tells caches
//! that there are several, on answers that go out as they are as well. Which answers are left alone
//! is in `concerns`.
//!
//! It is opt-in since a secret in an answer can be guessed from its length if the same answer
//! repeats what an attacker has sent (BREACH): only who knows the service can say that it has none
//! such.

mod compressed;
mod encoder;

use bytes::Bytes;
use counterfoil_policy::caching::validators::weakly_equal;
use counterfoil_policy::content_coding::{Coding, choose};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};

use self::encoder::Encoder;
use crate::config;
use crate::headers::{lists, text, vary_by};
use crate::respond::Body;
use crate::upstream::Rest;

pub use self::compressed::Compressed;

/// An answer up to this size, if it is there whole, is compressed before it leaves, 0.3 ms at most:
/// its length is known, and its codec gone, before a client begins to read. A larger one is compressed as
/// it is read.
const AT_ONCE: usize = 32 * 1024;
/// Fields that vouch for the bytes of the service (RFC 9530, RFC 3230, RFC 1864).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// What an answer that may be compressed depends on.
const VARIES: &str = "accept-encoding";

/// What is compressed on one route.
pub struct Compression {
    /// The one liked best first.
    offered: Vec<Coding>,
    types: Vec<Type>,
    minimum_bytes: u64,
}

/// A type of content, or several: `text/*`, `application/*+json`. In small letters.
struct Type {
    main: String,
    sub: String,
}

impl Type {
    fn covers(&self, main: &str, sub: &str) -> bool {
        let same = match self.sub.strip_prefix('*') {
            Some(end) => {
                sub.len() >= end.len()
                    && sub.as_bytes()[sub.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
            }
            None => sub.eq_ignore_ascii_case(&self.sub),
        };
        same && main.eq_ignore_ascii_case(&self.main)
    }
}

impl Compression {
    /// # Errors
    /// What is no coding, or no type.
    pub fn new(config: &config::Compression) -> Result<Self, String> {
        let coding = |name: &String| Coding::named(name).ok_or_else(|| format!("unknown encoding {name}"));
        let kind = |text: &String| {
            let (main, sub) = text.split_once('/').ok_or_else(|| format!("{text} is no type of content"))?;
            Ok::<_, String>(Type { main: main.to_ascii_lowercase(), sub: sub.to_ascii_lowercase() })
        };
        Ok(Self {
            offered: config.encodings.iter().map(coding).collect::<Result<_, _>>()?,
            types: config.types.iter().map(kind).collect::<Result<_, _>>()?,
            minimum_bytes: config.minimum_bytes,
        })
    }

    /// Compress an answer to the client that asked for it, if it is one to be compressed, and say what
    /// others have to know of it.
    pub fn apply(&self, asked: &Parts, answer: &mut Response<Body>) {
        if answer.status() == StatusCode::NOT_MODIFIED {
            return self.confirm(asked, answer.headers_mut());
        }
        // Part of what varies (RFC 9110, section 15.3.7).
        if answer.status() == StatusCode::PARTIAL_CONTENT && self.lists(answer.headers()) {
            return vary_by(answer.headers_mut(), VARIES);
        }
        if !self.concerns(asked, answer) {
            return;
        }
        vary_by(answer.headers_mut(), VARIES);
        // A client of HTTP/1.0 takes the end of the connection for that of an answer without a length, and
        // one may want no change.
        let accepted = asked.headers.get_all(header::ACCEPT_ENCODING);
        let coding = choose(accepted.iter().map(HeaderValue::as_bytes), &self.offered)
            .filter(|_| asked.version > Version::HTTP_10 && !stays(&asked.headers));
        if let Some(coding) = coding
            && match asked.method {
                // What nobody knows the length of may be too small.
                Method::HEAD => answer.headers().contains_key(header::CONTENT_LENGTH),
                _ => encode(answer.body_mut(), coding),
            }
        {
            let headers = answer.headers_mut();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            headers.remove(header::CONTENT_LENGTH);
            // Its ranges are not to be had.
            headers.remove(header::ACCEPT_RANGES);
            weaken(headers);
        }
    }

    /// Whether an answer is compressed for a client that reads one of the codings: nothing that has
    /// no body, is a part, or is encoded, nothing that must not be changed or that somebody vouches
    /// for byte by byte, and of the rest what is of a listed type and not too small.
    fn concerns(&self, asked: &Parts, answer: &Response<Body>) -> bool {
        let (status, headers) = (answer.status(), answer.headers());
        if status.is_informational()
            || matches!(status.as_u16(), 204..=206)
            || matches!(answer.body(), Body::Tunnel(_) | Body::Compressed(_) | Body::Framed(_))
            || headers.contains_key(header::CONTENT_ENCODING)
            || headers.contains_key(header::CONTENT_RANGE)
            || DIGESTS.iter().any(|name| headers.contains_key(*name))
            || stays(headers)
            || !self.lists(headers)
        {
            return false;
        }
        let length = match asked.method {
            Method::HEAD => text(headers, header::CONTENT_LENGTH).parse().ok(),
            _ => hyper::body::Body::size_hint(answer.body()).exact(),
        };
        length.is_none_or(|length| length >= self.minimum_bytes)
    }

    /// Whether answers of this type are compressed. Messages of gRPC have a compression of their own.
    fn lists(&self, headers: &HeaderMap) -> bool {
        let kind = text(headers, header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        let Some((main, sub)) = kind.split_once('/') else { return false };
        let is_grpc = sub.len() >= 4 && sub.as_bytes()[..4].eq_ignore_ascii_case(b"grpc");
        !is_grpc && self.types.iter().any(|each| each.covers(main, sub))
    }

    /// What a 304 says of an answer that was compressed when it was sent: its tag is the weak one
    /// by which the client asked, since a cache only takes a 304 for what it has by the same tag.
    fn confirm(&self, asked: &Parts, headers: &mut HeaderMap) {
        if (headers.contains_key(header::CONTENT_TYPE) && !self.lists(headers))
            || headers.contains_key(header::CONTENT_ENCODING)
        {
            return;
        }
        vary_by(headers, VARIES);
        let Some(tag) = headers.get(header::ETAG).map(HeaderValue::as_bytes) else { return };
        let lines = asked.headers.get_all(header::IF_NONE_MATCH);
        let mut named = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        if named.any(|each| each.trim_ascii().starts_with(b"W/") && weakly_equal(each.trim_ascii(), tag)) {
            weaken(headers);
        }
    }
}

/// Put a body into a coding, unless it would not be smaller for it; whether it is.
fn encode(body: &mut Body, coding: Coding) -> bool {
    // It can only have no memory; the answer goes out as it is then, which is always right.
    let Ok(mut encoder) = Encoder::new(coding) else { return false };
    let rest = match std::mem::replace(body, Body::Whole(Bytes::new())) {
        Body::Whole(whole) if whole.len() <= AT_ONCE => {
            let out = encoder.write(&whole).and_then(|mut out| {
                out.extend_from_slice(&encoder.finish()?);
                Ok(out)
            });
            let out = out.ok().filter(|out| out.len() < whole.len());
            let smaller = out.is_some();
            *body = Body::Whole(out.map_or(whole, Bytes::from));
            return smaller;
        }
        Body::Whole(whole) => Box::new(Rest::whole(whole, None)),
        Body::Rest(rest) => rest,
        other @ (Body::Compressed(_) | Body::Framed(_) | Body::Tunnel(_)) => {
            *body = other;
            return false;
        }
    };
    *body = Body::Compressed(Box::new(Compressed::new(rest, encoder)));
    true
}

/// Whether a message says that it is not to be changed on its way (RFC 9111, sections 5.2.1.6 and
/// 5.2.2.6).
fn stays(headers: &HeaderMap) -> bool {
    lists(headers, header::CACHE_CONTROL, "no-transform")
}

/// Make a strong tag a weak one.
fn weaken(headers: &mut HeaderMap) {
    if let Some(tag) = headers.get(header::ETAG)
        && tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
}
