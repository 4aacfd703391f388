//! Response compression, for routes that enable it.
//!
//! Compression is the last step of a response, after the cache and the access log. The cache stores the
//! service's bytes, one copy for clients of every coding, and ranges and conditions refer to these bytes. The
//! price is that each hit is compressed anew.
//!
//! A compressed response is another representation, so its `ETag` becomes a weak one (RFC 9110, section
//! 8.8.1), which still works with `If-None-Match`. `Vary` tells caches about it, on uncompressed responses as
//! well. `concerns` decides which responses are left alone.
//!
//! Compression is opt-in: if a response contains both a secret and input from an attacker, its length leaks
//! the secret (BREACH). Only the service's owner knows that this can't happen.

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

/// A complete response up to this size is compressed before it is sent, which takes 0.3 ms at most: its
/// length is then known, and the encoder is freed before a slow client reads. Larger ones are compressed as
/// they are read.
const AT_ONCE: usize = 32 * 1024;
/// Fields with digests of the service's bytes (RFC 9530, RFC 3230, RFC 1864).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// The `Vary` of responses that may be compressed.
const VARIES: &str = "accept-encoding";

/// The compression settings of one route.
pub struct Compression {
    /// In order of preference.
    offered: Vec<Coding>,
    types: Vec<Type>,
    minimum_bytes: u64,
}

/// A media type or a pattern, in lower case: `text/*`, `application/*+json`.
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
    /// An unknown coding or an invalid media type.
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

    /// Compress a response if client and settings allow it, and set its headers accordingly.
    pub fn apply(&self, asked: &Parts, answer: &mut Response<Body>) {
        if answer.status() == StatusCode::NOT_MODIFIED {
            return self.confirm(asked, answer.headers_mut());
        }
        // A range of a response that varies (RFC 9110, section 15.3.7).
        if answer.status() == StatusCode::PARTIAL_CONTENT && self.lists(answer.headers()) {
            return vary_by(answer.headers_mut(), VARIES);
        }
        if !self.concerns(asked, answer) {
            return;
        }
        vary_by(answer.headers_mut(), VARIES);
        // For an HTTP/1.0 client only the end of the connection marks the end of a response without a length.
        // A client may also forbid transformations.
        let accepted = asked.headers.get_all(header::ACCEPT_ENCODING);
        let coding = choose(accepted.iter().map(HeaderValue::as_bytes), &self.offered)
            .filter(|_| asked.version > Version::HTTP_10 && !stays(&asked.headers));
        if let Some(coding) = coding
            && match asked.method {
                // Without a length, the response may be too small for compression.
                Method::HEAD => answer.headers().contains_key(header::CONTENT_LENGTH),
                _ => encode(answer.body_mut(), coding),
            }
        {
            let headers = answer.headers_mut();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            headers.remove(header::CONTENT_LENGTH);
            // Ranges of the compressed response are not supported.
            headers.remove(header::ACCEPT_RANGES);
            weaken(headers);
        }
    }

    /// Whether a response is eligible for compression: it has a body that is complete and not encoded, nothing
    /// forbids transformations, no digest covers its bytes, its type is listed, and it is not too small.
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

    /// Whether responses of this type are compressed. gRPC messages have a compression of their own.
    fn lists(&self, headers: &HeaderMap) -> bool {
        let kind = text(headers, header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        let Some((main, sub)) = kind.split_once('/') else { return false };
        let is_grpc = sub.len() >= 4 && sub.as_bytes()[..4].eq_ignore_ascii_case(b"grpc");
        !is_grpc && self.types.iter().any(|each| each.covers(main, sub))
    }

    /// Adjust a 304 for a response that was compressed: its tag becomes the weak one that the client sent,
    /// since a cache matches a 304 by the tag that it stored.
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

/// Compress a body; a small one only if that makes it smaller. Returns whether it is compressed.
fn encode(body: &mut Body, coding: Coding) -> bool {
    // Setting up the codec only fails without memory; the response is then sent uncompressed.
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

/// Whether a message forbids transformations (RFC 9111, sections 5.2.1.6 and 5.2.2.6).
fn stays(headers: &HeaderMap) -> bool {
    lists(headers, header::CACHE_CONTROL, "no-transform")
}

/// Turn a strong tag into a weak one.
fn weaken(headers: &mut HeaderMap) {
    if let Some(tag) = headers.get(header::ETAG)
        && tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
}
