//! Forwarded headers: hop-by-hop fields are removed, the gateway's own are added.
//!
//! Services that read headers as variables (CGI, RFC 3875; WSGI and everything built on it) can't distinguish
//! `x_counterfoil_tenant` from `x-counterfoil-tenant`. So wherever it matters who set a header, names are
//! compared as such services read them (`as_read`).

use std::borrow::Cow;

use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

use crate::early_data::EARLY_DATA;
use crate::tunnel::Upgrade;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Prefix of headers that only the gateway sets.
const INTERNAL: &str = "x-counterfoil-";
const TENANT: HeaderName = HeaderName::from_static("x-counterfoil-tenant");
const TIER: HeaderName = HeaderName::from_static("x-counterfoil-tier");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers that the gateway adds to a request to an instance.
pub struct Added<'a> {
    pub host: &'a HeaderValue,
    pub client: &'a HeaderValue,
    pub request_id: &'a HeaderValue,
    /// Tenant and tier, if the gateway has verified them.
    pub bearer: Option<(&'a str, &'a str)>,
    /// Replaces the client's, if requests are traced.
    pub traceparent: Option<&'a HeaderValue>,
    /// Whether the request came in early data and may be a replay.
    pub early: bool,
    /// Headers from hooks; they replace the client's.
    pub hooked: &'a [(HeaderName, HeaderValue)],
}

/// What follows the head of a request, as far as the head announces it.
#[derive(Clone, Copy)]
pub struct Sent<'a> {
    /// In bytes; `None` if the body is chunked.
    pub length: Option<u64>,
    /// Whether the body is offered with `Expect: 100-continue` (RFC 9110, section 10.1.1).
    pub offered: bool,
    pub upgrade: Option<&'a Upgrade>,
}

/// Write the headers for an instance: without hop-by-hop headers and credentials, and with only verified
/// identity.
pub fn write(out: &mut Vec<u8>, method: &Method, given: &HeaderMap, added: &Added<'_>, sent: Sent<'_>) {
    line(out, "host", added.host.as_bytes());
    line(out, "x-forwarded-for", added.client.as_bytes());
    line(out, "x-request-id", added.request_id.as_bytes());
    if let Some((tenant, tier)) = added.bearer {
        line(out, "x-counterfoil-tenant", tenant.as_bytes());
        line(out, "x-counterfoil-tier", tier.as_bytes());
    }
    if let Some(traceparent) = added.traceparent {
        line(out, "traceparent", traceparent.as_bytes());
    }
    if added.early {
        line(out, "early-data", b"1");
    }
    match sent.length {
        Some(length) if !has_length(method, length) => {}
        Some(length) => line(out, "content-length", length.to_string().as_bytes()),
        None => line(out, "transfer-encoding", b"chunked"),
    }
    if sent.offered {
        line(out, "expect", b"100-continue");
    }
    if let Some(upgrade) = sent.upgrade {
        line(out, "connection", b"upgrade");
        line(out, "upgrade", upgrade.protocol.as_bytes());
        if let Some(key) = &upgrade.key {
            line(out, "sec-websocket-key", key.as_bytes());
        }
    } else if wants_trailers(given) {
        line(out, "te", b"trailers");
        line(out, "connection", b"te");
    }
    for (name, value) in added.hooked {
        line(out, name.as_str(), value.as_bytes());
    }
    let passing = Passing::of(given, added);
    let mut cookies = false;
    for (name, value) in given {
        let name = name.as_str();
        if name == "cookie" {
            cookies = true;
        } else if passing.passes(name) {
            line(out, name, value.as_bytes());
        }
    }
    if cookies && passing.passes("cookie") {
        // HTTP/2 may split cookies, HTTP/1.1 needs them in one header (RFC 9113, section 8.2.3).
        let all: Vec<&[u8]> = given.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        line(out, "cookie", &all.join(&b"; "[..]));
    }
}

/// The same for HTTP/2, which has `:authority` in place of Host and no connection-specific headers (RFC 9113,
/// section 8.2.2).
///
/// # Errors
/// A tenant or a tier isn't a valid header value.
pub fn map(
    method: &Method,
    given: &HeaderMap,
    added: &Added<'_>,
    length: Option<u64>,
) -> Result<HeaderMap, InvalidHeaderValue> {
    let mut out = HeaderMap::with_capacity(given.len() + 8);
    out.insert(FORWARDED_FOR, added.client.clone());
    out.insert(REQUEST_ID, added.request_id.clone());
    if let Some((tenant, tier)) = added.bearer {
        out.insert(TENANT, HeaderValue::from_bytes(tenant.as_bytes())?);
        out.insert(TIER, HeaderValue::from_bytes(tier.as_bytes())?);
    }
    if let Some(traceparent) = added.traceparent {
        out.insert(TRACEPARENT, traceparent.clone());
    }
    if added.early {
        out.insert(EARLY_DATA, HeaderValue::from_static("1"));
    }
    if let Some(length) = length.filter(|length| has_length(method, *length)) {
        out.insert(header::CONTENT_LENGTH, length.into());
    }
    if wants_trailers(given) {
        out.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    for (name, value) in added.hooked {
        out.append(name.clone(), value.clone());
    }
    let passing = Passing::of(given, added);
    for (name, value) in given.iter().filter(|(name, _)| passing.passes(name.as_str())) {
        out.append(name.clone(), value.clone());
    }
    Ok(out)
}

/// Whether to send Content-Length: not for an empty body, unless the method expects one.
fn has_length(method: &Method, length: u64) -> bool {
    length > 0 || matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Which of a client's headers are forwarded.
struct Passing<'a> {
    hooked: &'a [(HeaderName, HeaderValue)],
    traced: bool,
    /// Headers that the client's Connection lists.
    options: Vec<&'a [u8]>,
}

impl<'a> Passing<'a> {
    fn of(given: &'a HeaderMap, added: &Added<'a>) -> Self {
        let options = words(given, header::CONNECTION).collect();
        Self { hooked: added.hooked, traced: added.traceparent.is_some(), options }
    }

    fn passes(&self, written: &str) -> bool {
        match &*as_read(written) {
            name if self.hooked.iter().any(|(hooked, _)| *as_read(hooked.as_str()) == *name) => false,
            "authorization" | "x-api-key" | "content-length" | "expect" => false,
            "traceparent" if self.traced => false,
            // Set by the gateway or a trusted proxy: the client can't remove them by `Connection`.
            "x-forwarded-host" | "x-forwarded-proto" => true,
            name if set_by_gateway(name) => false,
            name => {
                !of_one_connection(name)
                    && !self.options.iter().any(|each| each.eq_ignore_ascii_case(written.as_bytes()))
            }
        }
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A name as read by services that can't distinguish an underscore from a hyphen.
pub fn as_read(name: &str) -> Cow<'_, str> {
    if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) }
}

/// Whether only the gateway sets this header in requests to instances.
pub fn set_by_gateway(name: &str) -> bool {
    let name = &*as_read(name);
    matches!(name, "early-data" | "host" | "x-forwarded-for" | "x-request-id") || name.starts_with(INTERNAL)
}

/// The elements of a list field.
pub fn words(headers: &HeaderMap, field: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(field).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

/// Whether a list field has an element, ignoring case.
pub fn lists(headers: &HeaderMap, field: HeaderName, word: &str) -> bool {
    words(headers, field).any(|each| each.eq_ignore_ascii_case(word.as_bytes()))
}

/// Add a field to Vary, unless it is there already.
pub fn vary_by(answer: &mut HeaderMap, field: &'static str) {
    if !lists(answer, header::VARY, field) && !lists(answer, header::VARY, "*") {
        answer.append(header::VARY, HeaderValue::from_static(field));
    }
}

/// Connection-specific fields of HTTP/1.1 that HTTP/2 and HTTP/3 don't have (RFC 9113, section 8.2.2; RFC
/// 9114, section 4.2).
pub const OF_HTTP1: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Whether a header is hop-by-hop (RFC 9110, section 7.6.1).
pub fn of_one_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether a header may be a trailer: not if it concerns framing, routing, authentication or the
/// interpretation of the body (RFC 9110, section 6.5.1).
pub fn may_trail(name: &str) -> bool {
    let name = &*as_read(name);
    let early = matches!(
        name,
        "authorization"
            | "x-api-key"
            | "cache-control"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "early-data"
            | "expect"
            | "host"
            | "idempotency-key"
            | "max-forwards"
            | "set-cookie"
            | "trailer"
            | "x-forwarded-for"
            | "x-request-id"
    );
    !early && !of_one_connection(name) && !name.starts_with(INTERNAL)
}

/// The trailers that may be forwarded.
pub fn trailing(trailers: HeaderMap) -> HeaderMap {
    if trailers.keys().all(|name| may_trail(name.as_str())) {
        return trailers;
    }
    let all = trailers.iter().filter(|(name, _)| may_trail(name.as_str()));
    all.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Write the last chunk and the trailers that may be forwarded.
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if may_trail(name.as_str()) {
            line(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the client accepts trailers (RFC 9110, section 10.1.4).
fn wants_trailers(given: &HeaderMap) -> bool {
    given.get(header::TE).is_some_and(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|each| each.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// The text of a header; empty if it is missing or not ASCII.
pub fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The text truncated to at most this many bytes, at a character boundary.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head written for a request with these headers.
    fn written(given: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut map = HeaderMap::new();
        for (name, value) in given {
            map.append(*name, HeaderValue::from_static(value));
        }
        let value = HeaderValue::from_static;
        let (host, client, request_id) = (&value("10.0.0.1:80"), &value("192.0.2.1"), &value("id"));
        let mut out = Vec::new();
        let added = Added {
            host,
            client,
            request_id,
            bearer: Some(("t1", "gold")),
            traceparent: None,
            early: false,
            hooked: &[],
        };
        write(&mut out, &Method::GET, &map, &added, Sent { length: Some(0), offered: false, upgrade: None });
        let written: Vec<(String, String)> = String::from_utf8_lossy(&out)
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        same_over_http2(&written, &super::map(&Method::GET, &map, &added, Some(0)).unwrap());
        written
    }

    /// HTTP/2 gets the same, except for what only HTTP/1.1 needs.
    fn same_over_http2(written: &[(String, String)], map: &HeaderMap) {
        let pair = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.as_str().to_owned(), value.to_str().unwrap().to_owned())
        };
        let besides = ["host", "connection", "cookie"];
        let mut mapped: Vec<_> = map.iter().map(pair).filter(|(name, _)| name != "cookie").collect();
        let mut written: Vec<_> =
            written.iter().filter(|(name, _)| !besides.contains(&name.as_str())).cloned().collect();
        mapped.sort();
        written.sort();
        assert_eq!(mapped, written);
    }

    #[test]
    fn a_header_that_the_client_names_in_connection_stays_with_the_connection() {
        let sent = written(&[("connection", "keep-alive, X-Mine"), ("x-mine", "1"), ("x-other", "2")]);
        assert!(!sent.iter().any(|(name, _)| name == "x-mine" || name == "connection"));
        assert!(sent.contains(&("x-other".to_owned(), "2".to_owned())));
    }

    #[test]
    fn what_is_the_gateways_to_say_is_not_said_with_underscores_either() {
        let sent = written(&[
            ("x_counterfoil_tenant", "forged"),
            ("x-counterfoil_tier", "forged"),
            ("x_forwarded_for", "forged"),
            ("x_api_key", "forged"),
            ("content_length", "forged"),
            ("transfer_encoding", "forged"),
            ("x_app", "1"),
        ]);
        assert!(!sent.iter().any(|(_, value)| value == "forged"), "{sent:?}");
        assert!(sent.contains(&("x_app".to_owned(), "1".to_owned())));
        assert!(!may_trail("x_counterfoil_tenant") && may_trail("x_sum"));
    }

    #[test]
    fn what_a_hook_says_a_client_can_not_say_beside_it() {
        let value = HeaderValue::from_static;
        let mut given = HeaderMap::new();
        for name in ["x-screened", "x_screened"] {
            given.append(name, value("forged"));
        }
        let hooked = [(HeaderName::from_static("x-screened"), value("t1"))];
        let (host, client, request_id) = (&value("10.0.0.1:80"), &value("192.0.2.1"), &value("id"));
        let (bearer, traceparent, early) = (None, None, false);
        let added = Added { host, client, request_id, bearer, traceparent, early, hooked: &hooked };
        let sent = super::map(&Method::GET, &given, &added, Some(0)).unwrap();
        assert!(!sent.values().any(|value| value == "forged"), "{sent:?}");
    }

    #[test]
    fn cookies_that_came_apart_go_on_as_one() {
        let sent = written(&[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2")]);
        assert!(sent.contains(&("cookie".to_owned(), "a=1; b=2".to_owned())));
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_the_gateways_own_headers_are_the_gateways(
            names in prop::collection::vec(prop::sample::select(vec![
                "authorization", "host", "x-forwarded-for", "x-request-id", "x-counterfoil-tenant",
                "x-counterfoil-tier", "x-counterfoil-other", "content-length", "transfer-encoding",
                "upgrade", "te", "early-data", "accept", "accept-language", "x-app",
            ]), 0..12),
        ) {
            let sent = written(&names.iter().map(|name| (*name, "forged")).collect::<Vec<_>>());
            let mut passed: Vec<&str> =
                sent.iter().filter(|(_, value)| value == "forged").map(|(name, _)| name.as_str()).collect();
            let free = ["accept", "accept-language", "x-app"];
            let mut wanted: Vec<&str> = names.iter().copied().filter(|name| free.contains(name)).collect();
            passed.sort_unstable();
            wanted.sort_unstable();
            prop_assert_eq!(passed, wanted);
            for (name, value) in [("x-counterfoil-tenant", "t1"), ("x-forwarded-for", "192.0.2.1")] {
                let found: Vec<&str> =
                    sent.iter().filter(|each| each.0 == name).map(|each| &*each.1).collect();
                prop_assert_eq!(found, [value]);
            }
        }
    }
}
