//! A stored response: its head without fields that belong to one connection or client, its complete body, and
//! how long it may be used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use counterfoil_policy::caching::directives::{Applies, ResponseDirectives};
use counterfoil_policy::caching::freshness::{Field, Head, Terms, Times, Unstorable};
use counterfoil_policy::caching::validators::{Validators, strongly_equal};
use counterfoil_policy::caching::vary::Vary;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::cache::Cache;
use crate::cache::request::{Key, Presented, selects};
use crate::proxy::EFFECT;

/// The memory that a stored response takes in addition to its bytes: the entry, its parts, and moka's
/// bookkeeping.
const OVERHEAD: usize = 640;
/// The memory that a header field takes in addition to its name and value: its slot in the map. With both,
/// the computed size was within a few percent of the memory that 18,000 small responses took.
const FIELD_OVERHEAD: usize = 104;
/// Tags per response; further ones are ignored. Bounds the lookups of a hit.
const TAGS: usize = 32;
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Fields that a 304 does not update: they describe the body, which a 304 doesn't carry (RFC 9111, section
/// 3.2).
const OF_THE_BODY: [&str; 5] = ["content-encoding", "content-length", "content-md5", "content-range", "etag"];

pub struct Stored {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub terms: Terms,
    pub validators: Validators,
    /// The key of the tenant that the response is for; `None` if it is for everybody.
    pub owner: Option<Key>,
    pub vary: Vary,
    /// The request's values of the fields that it varies by.
    pub selecting: Box<[u8]>,
    /// The hashes by which it is purged: of its URL and its tags.
    pub hashes: Box<[u64]>,
    pub asked_ns: u64,
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Terms(Unstorable),
    /// `Vary` names a field that requests can't be compared by.
    Vary,
    /// It had an effect (`counterfoil-effect`).
    Effect,
    /// An event stream, which doesn't end.
    Events,
    /// It is larger than the limit.
    Size,
}

impl Stored {
    /// Build the stored form of a response with this head; its body is set later.
    ///
    /// # Errors
    /// Why the response must not be stored.
    pub fn of(
        cache: &Cache,
        target: &str,
        asked: Presented<'_>,
        (status, headers): (StatusCode, &HeaderMap),
        times: Times,
    ) -> Result<Self, Refused> {
        let wanted = asked.wanted;
        if headers.contains_key(EFFECT) {
            return Err(Refused::Effect);
        }
        if crate::headers::text(headers, header::CONTENT_TYPE).starts_with("text/event-stream") {
            return Err(Refused::Events);
        }
        let head = read(status, headers);
        let terms = Terms::of(&head, &cache.rules, &wanted.directives, wanted.credentials, times)
            .map_err(Refused::Terms)?;
        let vary = Vary::parse(lines(headers, header::VARY))
            .filter(|vary| vary.names().all(selects))
            .ok_or(Refused::Vary)?;
        let entity_tag = headers.get(header::ETAG).map(|tag| tag.as_bytes().to_vec());
        let date_s = head.date_s.unwrap_or(times.came_s);
        let tags = headers.get_all(&cache.tags_header).iter().filter_map(|line| line.to_str().ok());
        let tags = tags.flat_map(|line| line.split([' ', ','])).filter(|tag| !tag.is_empty()).take(TAGS);
        let address = cache.store.hash_of_target(target);
        Ok(Self {
            status,
            headers: kept(cache, &head.directives, headers, times.came_s),
            body: Bytes::new(),
            terms,
            validators: Validators { entity_tag, last_modified_s: head.last_modified_s, date_s },
            owner: wanted.tenant_key.clone().filter(|_| !head.directives.public),
            selecting: asked.selecting(&vary),
            vary,
            hashes: std::iter::once(address).chain(tags.map(|tag| cache.store.hash_of_tag(tag))).collect(),
            asked_ns: times.asked_ns,
        })
    }

    /// The stored response as updated by a 304, and its head.
    ///
    /// A 304 confirms the entity tag that it was asked about. If it carries another strong tag, its fields
    /// are ignored (RFC 9111, section 4.3.4), and the lifetime starts anew from the stored fields.
    ///
    /// # Errors
    /// Why the response must no longer be stored.
    pub fn refreshed(
        &self,
        cache: &Cache,
        target: &str,
        asked: Presented<'_>,
        brought: &HeaderMap,
        times: Times,
    ) -> (Result<Self, Refused>, HeaderMap) {
        let other = match (brought.get(header::ETAG), &self.validators.entity_tag) {
            (Some(theirs), Some(mine)) => mine.starts_with(b"\"") && !strongly_equal(theirs.as_bytes(), mine),
            _ => false,
        };
        let none = HeaderMap::new();
        let brought = if other { &none } else { brought };
        let mut headers = self.headers.clone();
        // `Age` belongs to the old response; `Date` is replaced below for the same reason.
        headers.remove(header::AGE);
        for name in brought.keys().filter(|name| !OF_THE_BODY.contains(&name.as_str())) {
            headers.remove(name);
            for value in brought.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        if !brought.contains_key(header::DATE) {
            headers.insert(header::DATE, date(times.came_s));
        }
        let mut stored = Self::of(cache, target, asked, (self.status, &headers), times);
        if let Ok(stored) = &mut stored {
            stored.body = self.body.clone();
            if !brought.contains_key(&cache.tags_header) {
                stored.hashes = self.hashes.clone();
            }
        }
        (stored, headers)
    }

    /// Whether this response may be used for a request, and is the right variant. The owner is always
    /// checked, since a collapsed request may get a response that is for one tenant only.
    pub fn is_for(&self, asked: Presented<'_>) -> bool {
        (self.owner.is_none() || self.owner == asked.wanted.tenant_key)
            && asked.selecting(&self.vary) == self.selecting
    }

    /// The memory that it takes in the store, in bytes.
    pub fn weight(&self) -> usize {
        let head: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum();
        let owner = self.owner.as_ref().map_or(0, |owner| owner.len());
        OVERHEAD + head + owner + self.body.len() + self.selecting.len() + 8 * self.hashes.len()
    }
}

/// The fields of a head that matter for caching.
fn read(status: StatusCode, headers: &HeaderMap) -> Head {
    let targeted = ResponseDirectives::targeted(lines(headers, CDN_CACHE_CONTROL));
    let mut expires = lines(headers, header::EXPIRES);
    let expires = match (expires.next(), expires.next()) {
        (None, _) => Field::Missing,
        (Some(one), None) => seconds_since_1970(one).map_or(Field::Invalid, Field::At),
        (Some(_), Some(_)) => Field::Invalid,
    };
    let date_of = |name| headers.get(name).and_then(|value| seconds_since_1970(value.as_bytes()));
    Head {
        status: status.as_u16(),
        targeted: targeted.is_some(),
        directives: targeted
            .unwrap_or_else(|| ResponseDirectives::parse(lines(headers, header::CACHE_CONTROL))),
        age: age(headers),
        expires,
        date_s: date_of(header::DATE),
        last_modified_s: date_of(header::LAST_MODIFIED),
        has_validator: headers.contains_key(header::ETAG) || date_of(header::LAST_MODIFIED).is_some(),
        sets_cookie: headers.contains_key(header::SET_COOKIE),
    }
}

/// Parse `Age`: a single number of seconds. RFC 9111, section 5.1 recommends to use the first of several
/// values and to ignore an invalid one. But an age that is too small makes stale responses fresh, so here
/// anything but a single number makes the response stale.
fn age(headers: &HeaderMap) -> Field {
    let mut values = headers.get_all(header::AGE).iter();
    match (values.next(), values.next()) {
        (None, _) => Field::Missing,
        (Some(one), None) if !one.is_empty() && one.as_bytes().iter().all(u8::is_ascii_digit) => {
            Field::At(one.to_str().ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX))
        }
        _ => Field::Invalid,
    }
}

/// The fields to store, each copied: as received they are slices of the connection's read buffer and would
/// keep all of it alive.
fn kept(cache: &Cache, directives: &ResponseDirectives, headers: &HeaderMap, came_s: u64) -> HeaderMap {
    let named = |applies: &Applies, name: &str| match applies {
        Applies::Fields(names) => names.iter().any(|each| each == name),
        Applies::No | Applies::Whole => false,
    };
    let mut kept = HeaderMap::with_capacity(headers.len() + 1);
    for (name, value) in headers {
        let dropped = named(&directives.private, name.as_str())
            || named(&directives.no_cache, name.as_str())
            || name.as_str() == cache.tags_header
            || name == "content-length" // set for what is sent, which may be a range
            || name == "proxy-authentication-info";
        if !dropped && let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            kept.append(name, value);
        }
    }
    if !kept.contains_key(header::DATE) {
        kept.insert(header::DATE, date(came_s));
    }
    kept
}

fn lines(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
}

/// Parse a date in any of HTTP's three formats, as seconds since 1970.
pub fn seconds_since_1970(value: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    date.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn date(seconds_since_1970: u64) -> HeaderValue {
    let at: SystemTime = UNIX_EPOCH + Duration::from_secs(seconds_since_1970);
    HeaderValue::from_str(&httpdate::fmt_http_date(at))
        .unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}
