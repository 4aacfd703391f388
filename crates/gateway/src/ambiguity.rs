//! Refuses requests that two parsers might read differently (request smuggling).
//!
//! The gateway chooses a route by the path as it reads it, and forwards a body up to the end as it reads it.
//! An instance that reads either differently would serve a request that nothing has checked. hyper rejects
//! malformed requests and removes chunked framing; this module checks the rest.

use std::borrow::Cow;

use hyper::http::request::Parts;
use hyper::{StatusCode, Version, header};

use crate::respond::Problem;
use crate::server::HEADERS_LIMIT;

/// The normalized path to choose a route by; fails if the request is ambiguous or has too many headers.
pub fn checked_path(parts: &Parts) -> Result<Cow<'_, str>, Problem> {
    if parts.headers.len() > HEADERS_LIMIT {
        // hyper checks this for HTTP/1.1 only.
        let detail = format!("a request has at most {HEADERS_LIMIT} headers");
        return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail));
    }
    if parts.version <= Version::HTTP_11 {
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            transfer_encoding(parts)?;
        }
        let mut hosts = parts.headers.get_all(header::HOST).iter();
        // RFC 9112, section 3.2.
        let host = hosts.next();
        if host.is_none() && parts.version == Version::HTTP_11 || hosts.next().is_some() {
            return Err(bad("a request has one Host").close());
        }
        if !host.is_none_or(|host| host.as_bytes().iter().all(is_of_host)) {
            return Err(bad("Host is no name or address, with a port or without").close());
        }
    }
    let path = parts.uri.path();
    if !path.bytes().any(|byte| matches!(byte, b'%' | b'\\')) && !path.contains("/.") {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decoded(path, |_| true);
    if climbs(&decoded) || decoded.contains(&0) {
        return Err(bad("the path has a segment . or .. or a zero byte: ask for the path that is meant"));
    }
    Ok(normal(path))
}

/// Whether a byte is valid in a host and port (RFC 3986, section 3.2.2): services build links from the
/// forwarded host.
fn is_of_host(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(byte)
}

/// Accept only `chunked`, and only once.
fn transfer_encoding(parts: &Parts) -> Result<(), Problem> {
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() {
        return Ok(());
    }
    // RFC 9112, section 6.1.
    Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "chunked is the one transfer coding that is understood")
        .close())
}

fn bad(detail: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// Whether a path has a `.` or `..` segment in any notation that servers are known to resolve.
fn climbs(decoded: &[u8]) -> bool {
    decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        // Some servers remove path parameters (`;x=1`) first.
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    })
}

/// The path with unreserved characters decoded (RFC 3986, section 6.2.2.2): an instance reads `/%61dmin` as
/// `/admin`.
fn normal(path: &str) -> Cow<'_, str> {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    // Only ASCII is decoded, so the bytes stay valid UTF-8.
    String::from_utf8(decoded(path, unreserved)).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// Other paths that servers are known to read this path as: with encoded slashes decoded and backslashes
/// turned into slashes, with path parameters removed, with repeated slashes merged, and any combination of
/// these. Empty for most paths.
pub fn other_readings(path: &str) -> Vec<String> {
    if !path.contains("//") && !path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | b';')) {
        return Vec::new();
    }
    let steps: [fn(&str) -> String; 3] = [slashes_decoded, parameters_left_out, slashes_merged];
    let mut readings = vec![path.to_owned()];
    for step in steps {
        for before in 0..readings.len() {
            let reading = step(&readings[before]);
            if !readings.contains(&reading) {
                readings.push(reading);
            }
        }
    }
    readings.split_off(1)
}

fn slashes_decoded(path: &str) -> String {
    ["%2f", "%2F", "%5c", "%5C", "\\"].iter().fold(path.to_owned(), |path, slash| path.replace(slash, "/"))
}

fn parameters_left_out(path: &str) -> String {
    let names = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join("/")
}

fn slashes_merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    merged
}

/// The bytes of a path, with the percent-encoded bytes that `wanted` accepts decoded.
fn decoded(path: &str, wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let path = path.as_bytes();
    let digit = |place: usize| path.get(place).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(path.len());
    let mut place = 0;
    while let Some(byte) = path.get(place) {
        let meant = match (byte, digit(place + 1), digit(place + 2)) {
            (b'%', Some(high), Some(low)) => Some((high * 16 + low) as u8).filter(|byte| wanted(*byte)),
            _ => None,
        };
        decoded.push(meant.unwrap_or(*byte));
        place += if meant.is_some() { 3 } else { 1 };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    fn path(path: &str) -> Option<String> {
        let request = Request::builder().uri(path).header("host", "h").body(()).unwrap();
        checked_path(&request.into_parts().0).ok().map(Cow::into_owned)
    }

    #[test]
    fn a_path_that_climbs_is_refused_in_whatever_writing() {
        for climbing in [
            "/a/../b",
            "/a/..",
            "/..",
            "/./a",
            "/a/.",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/..%2fb",
            "/a/..;x=1/b",
            "/a/..%5cb",
            "/a\\..\\b",
            "/a%2f..%2fb",
            "/a%00b",
        ] {
            assert_eq!(path(climbing), None, "{climbing}");
        }
        for plain in ["/", "/a", "/a/.b", "/a/..b", "/a/b..", "/a/...", "/a%20b", "/a%2fb", "/%", "/%2525"] {
            assert_eq!(path(plain).as_deref(), Some(plain));
        }
        assert_eq!(path("/%61d%6Din/%7e").as_deref(), Some("/admin/~"));
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        let asked = |host: &str| {
            let request = Request::builder().uri("/").header("host", host).body(()).unwrap();
            checked_path(&request.into_parts().0).is_ok()
        };
        for host in ["", "h", "shop.example:8443", "[::1]:8443", "a_b", "xn--bcher-kva.example", "%C3%BC"] {
            assert!(asked(host), "{host}");
        }
        for host in
            ["a b", "shop.example/evil", "me@shop.example", "a\\b", "a?b", "a#b", "a\"b", "a<b", "\u{e4}"]
        {
            assert!(!asked(host), "{host}");
        }
    }

    #[test]
    fn what_other_servers_would_take_a_path_for_is_known() {
        let read_as = |path: &str, other: &str| other_readings(path).iter().any(|each| each == other);
        for path in ["//admin/x", "/admin//x", "/admin%2Fx", "/%5cadmin/x", "/;a=1/admin/x", "/admin;a/x;b"] {
            assert!(read_as(path, "/admin/x"), "{path}: {:?}", other_readings(path));
        }
        assert!(read_as("/a;b//c", "/a//c") && read_as("/a;b//c", "/a;b/c") && read_as("/a;b//c", "/a/c"));
        for plain in ["/", "/admin/x", "/admin/", "/a%20b"] {
            assert_eq!(other_readings(plain), [""; 0], "{plain}");
        }
    }

    proptest! {
        #[test]
        fn a_path_is_taken_for_what_it_is_however_it_is_written(
            segments in prop::collection::vec("[a-z]{1,3}", 1..6),
            climbing in prop::option::of((0usize..6, prop::sample::select(vec![".", ".."]))),
            encoded in prop::collection::vec(any::<bool>(), 32),
        ) {
            let mut segments = segments;
            if let Some((place, dots)) = climbing {
                segments.insert(place.min(segments.len()), dots.to_owned());
            }
            let meant = format!("/{}", segments.join("/"));
            let written: String = meant
                .chars()
                .zip(encoded.iter().cycle())
                .map(|(letter, encoded)| match letter {
                    letter if *encoded && letter != '/' => format!("%{:02x}", letter as u32),
                    letter => letter.to_string(),
                })
                .collect();
            prop_assert_eq!(path(&written), climbing.is_none().then_some(meant));
        }
    }
}
