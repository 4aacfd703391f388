//! What a request asks of the cache: the keys under which its answer may be, what it insists on,
//! and on which conditions it wants it.

use counterfoil_policy::caching::directives::RequestDirectives;
use counterfoil_policy::caching::vary::Vary;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;

use crate::cache::Cache;
use crate::cache::stored::Stored;
use crate::forwarded::claimed_address;
use crate::headers::{of_one_connection, set_by_gateway, words};
use crate::proxy::Seen;

/// Where an answer is kept: for everybody, or for one tenant in one tier.
pub type Key = Box<[u8]>;
/// By which those that wait for the same answer find each other: where it will be kept, and what
/// selects it there, as far as that is known.
pub type FlightKey = (Key, Box<[u8]>);

#[derive(Clone)]
pub struct Wanted {
    /// Where what is for everybody is kept.
    pub open_key: Key,
    /// Where what is for this tenant alone is kept, if there is one.
    pub tenant_key: Option<Key>,
    pub directives: RequestDirectives,
    pub range: Option<HeaderValue>,
    /// Whether the request carries credentials.
    pub credentials: bool,
    tenant: Option<(HeaderValue, HeaderValue)>,
}

/// A request as stored answers are compared with it.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    pub wanted: &'a Wanted,
    pub headers: &'a HeaderMap,
}

impl<'a> Presented<'a> {
    /// What the request has in the fields that an answer varies by.
    pub fn selecting(&self, vary: &Vary) -> Box<[u8]> {
        vary.selecting(|name| self.lines(name))
    }

    /// The lines of a field as the service sees them: who asks is what the gateway has checked.
    fn lines(&self, name: &str) -> Vec<&'a [u8]> {
        match (name, &self.wanted.tenant) {
            ("x-counterfoil-tenant", Some((tenant, _))) => vec![tenant.as_bytes()],
            ("x-counterfoil-tier", Some((_, tier))) => vec![tier.as_bytes()],
            (name, _) if name.starts_with("x-counterfoil-") => Vec::new(),
            (name, _) => self.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect(),
        }
    }
}

/// Whether the store may answer: not where the client states what the origin must be like for the
/// request to go on (RFC 9111, section 4.3.2), nor where it wants another protocol, nor where it takes
/// back by `Connection` what it says in other fields: the service doesn't see those, so its answer
/// is none to who says the same and means it.
pub fn can_be_stored_for(headers: &HeaderMap) -> bool {
    let taken_back = |option: &[u8]| {
        HeaderName::from_bytes(option)
            .is_ok_and(|name| headers.contains_key(&name) && !of_one_connection(name.as_str()))
    };
    ![header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::UPGRADE, header::EXPECT]
        .iter()
        .any(|name| headers.contains_key(name))
        && !words(headers, header::CONNECTION).any(taken_back)
}

/// Whether answers may depend on a field: not on what the gateway sets towards services, which is
/// another in each request or not the client's to say, but for the host, which is in every key, and the
/// tenant.
pub fn selects(name: &str) -> bool {
    matches!(name, "host" | "x-counterfoil-tenant" | "x-counterfoil-tier") || !set_by_gateway(name)
}

/// Path and query of a request, as it sent them.
pub fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// The host that a request is for, in lower case.
pub fn host(parts: &Parts) -> String {
    match parts.uri.authority() {
        Some(authority) => authority.as_str().to_ascii_lowercase(),
        None => crate::headers::text(&parts.headers, header::HOST).to_ascii_lowercase(),
    }
}

impl Wanted {
    pub fn new(cache: &Cache, parts: &Parts, seen: &Seen) -> Self {
        let (host, target) = (host(parts), target(parts));
        let bearer = seen.bearer.as_deref();
        // No field can hold a NUL; how many there are tells the two kinds of keys apart.
        let open = [&*cache.service, &*host, target];
        let key = |fields: &[&str]| {
            let mut key = fields.join("\0").into_bytes();
            for (name, value) in &seen.hooked {
                // A line feed is in no target, and in no name or value of a header.
                key.extend([b"\n", name.as_str().as_bytes(), b":", value.as_bytes()].concat());
            }
            for (name, said) in claimed_address(&parts.headers) {
                key.extend([b"\n", name.as_str().as_bytes(), b":", said].concat());
            }
            key.into_boxed_slice()
        };
        let lines = || parts.headers.get_all(header::CACHE_CONTROL).iter().map(HeaderValue::as_bytes);
        let pragma = parts.headers.get(header::PRAGMA).map(HeaderValue::as_bytes);
        let directives = if cache.request_directives {
            RequestDirectives::parse(lines(), pragma)
        } else {
            RequestDirectives::default()
        };
        let value = |text: &str| HeaderValue::from_str(text).ok();
        Self {
            open_key: key(&open),
            tenant_key: bearer.map(|bearer| key(&[&[&*bearer.tenant, &*bearer.tier][..], &open].concat())),
            directives,
            range: parts.headers.get(header::RANGE).cloned(),
            credentials: bearer.is_some() || parts.headers.contains_key(header::AUTHORIZATION),
            tenant: bearer.and_then(|bearer| Some((value(&bearer.tenant)?, value(&bearer.tier)?))),
        }
    }

    /// Whether the client wants more than an answer that is fresh, so that it can't share another's.
    pub fn insists(&self) -> bool {
        let RequestDirectives { no_store, no_cache, max_age, min_fresh, .. } = self.directives;
        no_store || no_cache || max_age.is_some() || min_fresh.is_some()
    }

    /// Where what is for this request alone, or its tenant, would be kept.
    pub fn own_key(&self) -> &[u8] {
        self.tenant_key.as_ref().unwrap_or(&self.open_key)
    }

    /// Where an answer is kept.
    pub fn key_of<'a>(&'a self, stored: &'a Stored) -> &'a [u8] {
        stored.owner.as_ref().unwrap_or(&self.open_key)
    }

    /// By what those that wait for one more answer like `stored` find each other.
    pub fn flight_of(&self, stored: &Stored) -> FlightKey {
        (self.key_of(stored).into(), stored.selecting.clone())
    }

    /// The same where nothing like it is stored, but perhaps another variant (`selecting`: what this
    /// request has in the fields that one varies by). Where it isn't known yet whether the answer is
    /// for everybody, tenants don't wait for each other; where it isn't known what it varies by, all
    /// wait for the first.
    pub fn flight_of_new(&self, selecting: Option<Box<[u8]>>) -> FlightKey {
        (self.own_key().into(), selecting.unwrap_or_default())
    }
}
