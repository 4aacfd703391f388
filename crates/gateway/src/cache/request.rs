//! A request as the cache sees it: the keys of its response, its cache directives and its conditions.

use counterfoil_policy::caching::directives::RequestDirectives;
use counterfoil_policy::caching::vary::Vary;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;

use crate::cache::Cache;
use crate::cache::stored::Stored;
use crate::forwarded::claimed_address;
use crate::headers::{of_one_connection, set_by_gateway, words};
use crate::proxy::Seen;

/// The key of a stored response: for everybody, or for one tenant in one tier.
pub type Key = Box<[u8]>;
/// Identifies the fetches of one response: the key and, as far as known, the variant.
pub type FlightKey = (Key, Box<[u8]>);

#[derive(Clone)]
pub struct Wanted {
    /// The key of responses for everybody.
    pub open_key: Key,
    /// The key of responses for this tenant only, if there is one.
    pub tenant_key: Option<Key>,
    pub directives: RequestDirectives,
    pub range: Option<HeaderValue>,
    /// Whether the request carries credentials.
    pub credentials: bool,
    tenant: Option<(HeaderValue, HeaderValue)>,
}

/// A request to be matched with stored responses.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    pub wanted: &'a Wanted,
    pub headers: &'a HeaderMap,
}

impl<'a> Presented<'a> {
    /// The request's values of the fields that a response varies by.
    pub fn selecting(&self, vary: &Vary) -> Box<[u8]> {
        vary.selecting(|name| self.lines(name))
    }

    /// The lines of a field as the service sees them: tenant and tier as verified by the gateway.
    fn lines(&self, name: &str) -> Vec<&'a [u8]> {
        match (name, &self.wanted.tenant) {
            ("x-counterfoil-tenant", Some((tenant, _))) => vec![tenant.as_bytes()],
            ("x-counterfoil-tier", Some((_, tier))) => vec![tier.as_bytes()],
            (name, _) if name.starts_with("x-counterfoil-") => Vec::new(),
            (name, _) => self.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect(),
        }
    }
}

/// Whether the cache applies to a request. It does not if the request has preconditions for the origin (RFC
/// 9111, section 4.3.2), asks for an upgrade, or nominates other fields in `Connection`: these are not
/// forwarded, so the response would be wrong for a request that does forward them.
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

/// Whether responses may vary by a field. Not by those that the gateway sets towards services: they differ in
/// each request or are not under the client's control. Exceptions are the host, which is in every key, and
/// the tenant and tier.
pub fn selects(name: &str) -> bool {
    matches!(name, "host" | "x-counterfoil-tenant" | "x-counterfoil-tier") || !set_by_gateway(name)
}

/// Path and query of a request, as sent.
pub fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// The host of a request, in lower case.
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
        // No field can contain NUL; the number of fields distinguishes the two kinds of keys.
        let open = [&*cache.service, &*host, target];
        let key = |fields: &[&str]| {
            let mut key = fields.join("\0").into_bytes();
            for (name, value) in &seen.hooked {
                // Neither a target nor a header's name or value can contain a line feed.
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

    /// Whether the client demands more than freshness, so that it can't share another request's response.
    pub fn insists(&self) -> bool {
        let RequestDirectives { no_store, no_cache, max_age, min_fresh, .. } = self.directives;
        no_store || no_cache || max_age.is_some() || min_fresh.is_some()
    }

    /// The key of responses for this request's tenant only, or for everybody without a tenant.
    pub fn own_key(&self) -> &[u8] {
        self.tenant_key.as_ref().unwrap_or(&self.open_key)
    }

    /// The key of a stored response.
    pub fn key_of<'a>(&'a self, stored: &'a Stored) -> &'a [u8] {
        stored.owner.as_ref().unwrap_or(&self.open_key)
    }

    /// Identifies the fetch that replaces `stored`.
    pub fn flight_of(&self, stored: &Stored) -> FlightKey {
        (self.key_of(stored).into(), stored.selecting.clone())
    }

    /// Identifies a fetch if no matching response is stored. `selecting` holds the request's values of the
    /// fields that another stored variant varies by. While it is unknown whether the response is for
    /// everybody, tenants don't wait for each other; while it is unknown what it varies by, all requests wait
    /// for the first.
    pub fn flight_of_new(&self, selecting: Option<Box<[u8]>>) -> FlightKey {
        (self.own_key().into(), selecting.unwrap_or_default())
    }
}
