//! Signed requests: HTTP Message Signatures (RFC 9421) with HMAC-SHA256, for clients that share a secret with
//! the gateway and don't want to transmit it.
//!
//! This is a subset, strict where the RFC leaves room. A signature has to cover `@method`, `@path`, `@query`,
//! and `content-digest` (RFC 9530) if there is a body; it may also cover `@authority` and headers. `keyid`
//! and `created` are required. A signature is accepted once, within a minute of its creation: two equal
//! requests in one second need a `nonce` to differ. Each gateway remembers accepted signatures by itself, so
//! another gateway would accept the same one once more.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_policy::replay::{ReplayWindow, Verdict};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName};
use hyper::http::request::Parts;
use ring::digest::{SHA256, digest};
use ring::hmac;
use sfv::{BareItem, Dictionary, InnerList, ListEntry, ListSerializer, Parser};

use crate::Error;
use crate::config;
use crate::headers::text;
use crate::identity::{Bearer, Rejected};
use crate::request_body::RequestBody;
use crate::respond::Problem;
use crate::secret::Secret;

pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
const SIGNATURE: HeaderName = HeaderName::from_static("signature");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// The maximum age of a signature: time for a slow network, and a bound on what must be remembered.
const WINDOW_NS: u64 = 60_000_000_000;
/// How far ahead a client's clock may be.
const SKEW_NS: u64 = 30_000_000_000;
/// Signatures remembered per part, in each of two generations of 90 s, at some 20 bytes: enough for 11,650
/// signed requests a second.
const REMEMBERED: usize = 65_536;
/// Shards of the remembered signatures, each with its own lock.
const PARTS: usize = 16;
/// A secret shorter than the MAC weakens it (RFC 2104, section 3).
const SECRET_LEAST: usize = 32;
/// The maximum number of covered components.
const COMPONENTS: usize = 32;
/// The maximum size of a signed body. It is buffered completely, since its digest has to be checked before it
/// is forwarded.
const BODY_LIMIT: u64 = 1024 * 1024;
/// The timeout for receiving it.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepted signatures, kept across reloads.
pub struct Replays([Mutex<ReplayWindow>; PARTS]);

impl Default for Replays {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(ReplayWindow::new(WINDOW_NS, SKEW_NS, REMEMBERED))))
    }
}

pub struct SigningKeys {
    by_id: HashMap<String, (hmac::Key, Arc<Bearer>)>,
    replays: Arc<Replays>,
}

/// The SHA-256 that a signed body must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyDigest([u8; 32]);

impl SigningKeys {
    /// # Errors
    /// `Error::Config` for a secret that is too short.
    pub fn new(
        configured: &HashMap<String, config::SigningKey>,
        replays: Arc<Replays>,
    ) -> Result<Self, Error> {
        let keys = configured.iter().map(|(name, key)| {
            let secret = key.secret.expose();
            if secret.len() < SECRET_LEAST {
                let detail = format!("its secret is shorter than {SECRET_LEAST} bytes: make a longer one");
                return Err(Error::Config(format!("signing key {name}: {detail}")));
            }
            let bearer = Bearer::of_key(&key.tenant, &key.tier);
            Ok((name.clone(), (hmac::Key::new(hmac::HMAC_SHA256, secret), bearer)))
        });
        Ok(Self { by_id: keys.collect::<Result<_, _>>()?, replays })
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Verify a request's signature. Returns the signer, and the digest that the body must have; `now` is in
    /// seconds since 1970.
    pub fn check(
        &self,
        parts: &Parts,
        has_body: bool,
        now: u64,
    ) -> Result<(Arc<Bearer>, Option<BodyDigest>), Rejected> {
        let (input, given) = signature(&parts.headers)?;
        let text_of = |name: &str| {
            input.params.get(name).map(|value| value.as_string().map_or("", |text| text.as_str()))
        };
        let number = |name: &str| {
            let value = input.params.get(name)?.as_integer()?;
            u64::try_from(i64::from(value)).ok()
        };
        if text_of("alg").is_some_and(|algorithm| algorithm != "hmac-sha256") {
            return Err(Rejected::Signed("is by another algorithm than hmac-sha256"));
        }
        let created = number("created").ok_or(Rejected::Signed("has no time of creation"))?;
        if input.params.contains_key("expires") && number("expires").is_none_or(|expires| expires < now) {
            return Err(Rejected::Signed("has expired"));
        }
        let known = text_of("keyid").and_then(|id| self.by_id.get(id));
        let (key, bearer) = known.ok_or(Rejected::Signed("is by a key that is not known"))?;
        let base = base(&input, parts)?;
        let mac = hmac::sign(key, base.as_bytes());
        if !Secret::from(mac.as_ref()).matches(&given) {
            return Err(Rejected::Signed("is wrong"));
        }
        let covers = |name: &str| covered(&input).any(|component| component == Some(name));
        if !["@method", "@path", "@query"].into_iter().all(covers) {
            return Err(Rejected::Signed("must cover @method, @path and @query"));
        }
        let body = match (covers("content-digest"), has_body) {
            (true, _) => Some(body_digest(&parts.headers)?),
            (false, true) => {
                return Err(Rejected::Signed("must cover content-digest, since there is a body"));
            }
            (false, false) => None,
        };
        self.first_time(mac.as_ref(), created, now)?;
        Ok((Arc::clone(bearer), body))
    }

    fn first_time(&self, mac: &[u8], created: u64, now: u64) -> Result<(), Rejected> {
        let mark = mac.iter().take(16).fold(0, |mark, byte| mark << 8 | u128::from(*byte));
        let part = &self.replays.0[(mark % PARTS as u128) as usize];
        let ns = |seconds: u64| seconds.saturating_mul(1_000_000_000);
        let verdict = part.lock().unwrap_or_else(PoisonError::into_inner).judge(mark, ns(created), ns(now));
        match verdict {
            Verdict::Fresh => Ok(()),
            Verdict::Replayed => Err(Rejected::Signed("was used before")),
            Verdict::Stale => Err(Rejected::Signed("was made more than a minute ago")),
            Verdict::Early => Err(Rejected::Signed("is from the future: see to the clock")),
            Verdict::Full => Err(Rejected::TooManySigned),
        }
    }
}

/// The only signature of a request: the covered components and parameters, and the MAC.
fn signature(headers: &HeaderMap) -> Result<(InnerList, Vec<u8>), Rejected> {
    let malformed = Rejected::Signed("is malformed");
    let one = |name: HeaderName| {
        let mut values = headers.get_all(&name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Parser::new(value.as_bytes()).parse::<Dictionary>().map_err(|_| malformed),
            _ => Err(malformed),
        }
    };
    let (mut inputs, mut signatures) = (one(SIGNATURE_INPUT)?, one(SIGNATURE)?);
    if inputs.len() != 1 || signatures.len() != 1 {
        return Err(Rejected::Signed("must be one, under one name"));
    }
    match (inputs.pop(), signatures.pop()) {
        (Some((label, ListEntry::InnerList(input))), Some((same, ListEntry::Item(item))))
            if label == same =>
        {
            let bytes = item.bare_item.as_byte_sequence().ok_or(malformed)?.to_vec();
            Ok((input, bytes))
        }
        _ => Err(malformed),
    }
}

/// The names of the covered components; `None` for one with parameters, which are not supported.
fn covered(input: &InnerList) -> impl Iterator<Item = Option<&str>> {
    input.items.iter().map(|item| {
        let name = item.bare_item.as_string()?.as_str();
        item.params.is_empty().then_some(name)
    })
}

/// The signature base (RFC 9421, section 2.5).
fn base(input: &InnerList, parts: &Parts) -> Result<String, Rejected> {
    let unknown = Rejected::Signed("covers a component that this gateway can't check");
    let mut base = String::new();
    let mut seen = HashSet::new();
    if input.items.len() > COMPONENTS {
        return Err(unknown);
    }
    for component in covered(input) {
        let name = component.ok_or(unknown)?;
        if !seen.insert(name) {
            return Err(Rejected::Signed("covers a component twice"));
        }
        // Writing to a String can't fail.
        let _ = writeln!(base, "\"{name}\": {}", value(name, parts).ok_or(unknown)?);
    }
    let mut serialized = ListSerializer::new();
    serialized.members([&ListEntry::InnerList(input.clone())]);
    let _ = write!(base, "\"@signature-params\": {}", serialized.finish().unwrap_or_default());
    Ok(base)
}

fn value(component: &str, parts: &Parts) -> Option<String> {
    Some(match component {
        "@method" => parts.method.as_str().to_owned(),
        "@path" => parts.uri.path().to_owned(),
        "@query" => format!("?{}", parts.uri.query().unwrap_or_default()),
        "@authority" => {
            let host = parts
                .uri
                .authority()
                .map_or_else(|| text(&parts.headers, hyper::header::HOST), |authority| authority.as_str());
            host.to_ascii_lowercase()
        }
        derived if derived.starts_with('@') => return None,
        name => {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let values = parts.headers.get_all(name).iter().map(|value| value.to_str().ok().map(str::trim));
            let values: Vec<&str> = values.collect::<Option<_>>()?;
            if values.is_empty() {
                return None;
            }
            values.join(", ")
        }
    })
}

/// The SHA-256 in `Content-Digest` (RFC 9530).
fn body_digest(headers: &HeaderMap) -> Result<BodyDigest, Rejected> {
    let missing = Rejected::Signed("needs a Content-Digest with sha-256");
    let said = Parser::new(text(headers, CONTENT_DIGEST)).parse::<Dictionary>().map_err(|_| missing)?;
    match said.get("sha-256") {
        Some(ListEntry::Item(sfv::Item { bare_item: BareItem::ByteSequence(bytes), .. })) => {
            Ok(BodyDigest(bytes.as_slice().try_into().map_err(|_| missing)?))
        }
        _ => Err(missing),
    }
}

impl BodyDigest {
    /// Read the complete body, at most `limit` bytes (0: only the limit of signed bodies applies), and verify
    /// its digest.
    ///
    /// # Errors
    /// 401 if the digest differs; 413, 400 and 408 as for every body.
    pub async fn receive(&self, body: &mut RequestBody, limit: u64) -> Result<Bytes, Problem> {
        let limit = if limit == 0 { BODY_LIMIT } else { limit.min(BODY_LIMIT) };
        let reading = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect();
        let read = tokio::time::timeout(BODY_TIMEOUT, reading)
            .await
            .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))?;
        let bytes = read.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let detail = format!("the signed body is larger than {limit} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            } else {
                Problem::new(StatusCode::BAD_REQUEST, "the body did not arrive whole")
            }
        })?;
        let bytes = bytes.to_bytes();
        if digest(&SHA256, &bytes).as_ref() != self.0 {
            return Err(Rejected::Signed("is of another body").into());
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    /// RFC 9421, appendix B.2.5.
    #[test]
    fn the_example_of_the_rfc_has_its_signature() {
        let (parts, ()) = Request::post("https://example.com/foo?param=Value&Pet=dog")
            .header("date", "Tue, 20 Apr 2021 02:07:55 GMT")
            .header("content-type", "application/json")
            .header(
                "signature-input",
                "sig-b25=(\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"",
            )
            .header("signature", "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:")
            .body(())
            .unwrap()
            .into_parts();
        let (input, given) = signature(&parts.headers).unwrap();
        let secret = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==",
        )
        .unwrap();
        let mac =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), base(&input, &parts).unwrap().as_bytes());
        assert!(Secret::from(mac.as_ref()).matches(&given));
    }
}
