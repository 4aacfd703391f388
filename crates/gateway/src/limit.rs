//! A route's limit: its key, its algorithm, and the RateLimit fields of answers.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use counterfoil_policy::Left;
use counterfoil_policy::fixed_window::FixedWindow;
use counterfoil_policy::gcra::{Decision, Gcra};
use counterfoil_policy::keyed::Keyed;
use counterfoil_policy::shared_gcra::SharedGcra;
use counterfoil_policy::sliding_counter::SlidingCounter;
use counterfoil_policy::sliding_log::SlidingLog;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;

use crate::Error;
use crate::config::{self, Algorithm, Fallback, LimitKey};
use crate::door::site;
use crate::exchange::Link;
use crate::proxy::Seen;
use crate::respond::Problem;
use crate::route::Route;
use crate::shared;
use crate::store::{Question, Verdict};

/// Maximum number of keys of one limit: GCRA takes 16 bytes per key, algorithms that keep keys as text some
/// 100.
const KEYS: usize = 1_000_000;
/// Maximum number of timestamps, 8 bytes each, in the sliding logs of one limit: with long logs, it remembers
/// fewer keys.
const LOGGED: usize = 16_000_000;
/// Keys are truncated to this many bytes, so that clients don't control how much memory a key takes.
const KEY_BYTES: usize = 128;

enum Cells {
    Local(Gcra),
    Shared { cells: SharedGcra, link: Arc<Link>, fallback: Fallback, strict: bool },
    FixedWindow(Keyed<FixedWindow>),
    SlidingCounter(Keyed<SlidingCounter>),
    SlidingLog(Keyed<SlidingLog>),
}

pub struct Limit {
    pub name: String,
    pub key: LimitKey,
    /// Whether every answer has RateLimit fields, not only refusals.
    pub tell: bool,
    pub allowed: AtomicU64,
    pub refused: AtomicU64,
    cells: Cells,
    /// The name, and the policy, as in RateLimit fields.
    label: String,
    policy: HeaderValue,
}

impl Limit {
    pub fn new(name: &str, config: &config::Limit, link: Option<&Arc<Link>>) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Config(format!("limit {name}: {what}"));
        let cells = cells(config, link).map_err(wrong)?;
        let (quota, window_seconds) =
            match (config.rate, config.burst, config.requests, config.window_seconds) {
                (Some(rate), Some(burst), ..) => (burst, f64::from(burst) / rate),
                (.., Some(requests), Some(seconds)) => (requests, seconds),
                _ => return Err(wrong("a rate and a burst are needed, or requests and a window")),
            };
        let label = label(name);
        let policy = format!("{label};q={quota};w={}", window_seconds.ceil().max(1.0) as u64);
        let policy = HeaderValue::try_from(policy).map_err(|_| wrong("its name can't be told to clients"))?;
        Ok(Self {
            name: name.into(),
            key: config.key.clone(),
            tell: config.tell,
            allowed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            cells,
            label,
            policy,
        })
    }

    /// Admit one request of `key`, or say why not.
    pub fn pass(&self, key: &str, now_ns: u64) -> Result<(), Problem> {
        let decision = match &self.cells {
            Cells::Local(cells) => cells.check(key, now_ns),
            Cells::Shared { link, fallback: Fallback::Refuse, .. } if !link.connected() => {
                return Err(self.untold());
            }
            Cells::Shared { cells, .. } => cells.check(key, now_ns),
            Cells::FixedWindow(keyed) => keyed.check(key, now_ns),
            Cells::SlidingCounter(keyed) => keyed.check(key, now_ns),
            Cells::SlidingLog(keyed) => keyed.check(key, now_ns),
        };
        self.decided(decision)
    }

    /// The same with the store's decision, for strict limits.
    pub async fn ask(&self, key: &str, shared: &shared::Shared) -> Result<(), Problem> {
        let Cells::Shared { cells, link, fallback, .. } = &self.cells else { return Ok(()) };
        let now_ns = shared.nanoseconds(Instant::now());
        let known = cells.look(key, now_ns);
        if known != Decision::Allowed {
            return self.decided(known);
        }
        let question = Question {
            limit: self.name.as_str().into(),
            key: key.into(),
            interval_ns: cells.interval_ns(),
            tolerance_ns: cells.tolerance_ns(),
            debt_limit_ns: cells.debt_limit_ns(),
        };
        match (link.ask(question).await, fallback) {
            (Some(Verdict { decision, debt_ns }), _) => {
                cells.told(key, now_ns, debt_ns);
                self.decided(decision)
            }
            (None, Fallback::Local) => self.decided(cells.check(key, shared.nanoseconds(Instant::now()))),
            (None, Fallback::Refuse) => Err(self.untold()),
        }
    }

    /// Whether the store is asked about each request.
    pub fn is_strict(&self) -> bool {
        matches!(self.cells, Cells::Shared { strict: true, .. })
    }

    fn untold(&self) -> Problem {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let detail = format!("limit {} can't be told from its store at the moment", self.name);
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    }

    fn decided(&self, decision: Decision) -> Result<(), Problem> {
        match decision {
            Decision::Allowed => {
                self.allowed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Decision::Refused { retry_after_ns } => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let detail = format!("limit {} is used up", self.name);
                let seconds = retry_after_ns.div_ceil(1_000_000_000);
                Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds))
            }
        }
    }

    /// The cells shared with other gateways.
    pub fn shared(&self) -> Option<&SharedGcra> {
        match &self.cells {
            Cells::Shared { cells, .. } => Some(cells),
            _ => None,
        }
    }

    /// Number of keys in memory.
    pub fn keys(&self) -> usize {
        match &self.cells {
            Cells::Local(cells) => cells.keys(),
            Cells::Shared { cells, .. } => cells.keys(),
            Cells::FixedWindow(keyed) => keyed.keys(),
            Cells::SlidingCounter(keyed) => keyed.keys(),
            Cells::SlidingLog(keyed) => keyed.keys(),
        }
    }

    fn left(&self, key: &str, now_ns: u64) -> Left {
        match &self.cells {
            Cells::Local(cells) => cells.left(key, now_ns),
            Cells::Shared { cells, .. } => cells.left(key, now_ns),
            Cells::FixedWindow(keyed) => keyed.left(key, now_ns),
            Cells::SlidingCounter(keyed) => keyed.left(key, now_ns),
            Cells::SlidingLog(keyed) => keyed.left(key, now_ns),
        }
    }

    /// The key of a request. All requests without a key share the empty one.
    fn key<'a>(&self, route: &'a Route, parts: &'a Parts, seen: &'a Seen) -> Cow<'a, str> {
        let key = self.key.of(route, parts, seen);
        if self.key == LimitKey::Address { of_site(key) } else { Cow::Borrowed(key) }
    }
}

/// The network of an address: an IPv6 customer has 2^64 addresses, and would otherwise have as many keys.
fn of_site(address: &str) -> Cow<'_, str> {
    match address.parse::<IpAddr>() {
        Ok(parsed @ IpAddr::V6(_)) => Cow::Owned(match site(parsed) {
            IpAddr::V6(network) => format!("{network}/64"),
            mapped => mapped.to_string(),
        }),
        _ => Cow::Borrowed(address),
    }
}

impl LimitKey {
    /// The key of a request, truncated; empty if it has none.
    pub fn of<'a>(&self, route: &'a Route, parts: &'a Parts, seen: &'a Seen) -> &'a str {
        let key = match self {
            Self::Tenant => seen.bearer.as_ref().map_or("", |bearer| &bearer.tenant),
            Self::Address => seen.address(),
            Self::Route => &route.config.path,
            Self::Claim(name) => seen.bearer.as_ref().map_or("", |bearer| bearer.claim(name)),
            Self::Header(name) => {
                parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
            }
        };
        crate::headers::cut(key, KEY_BYTES)
    }
}

/// Check all limits of a request's route except the strict ones.
pub fn pass(route: &Route, parts: &Parts, seen: &Seen, now_ns: u64) -> Result<(), Problem> {
    let mut limits = route.limits.iter().filter(|limit| !limit.is_strict());
    limits.try_for_each(|limit| limit.pass(&limit.key(route, parts, seen), now_ns))
}

/// Check the strict limits of a request's route, after the others have passed.
pub async fn pass_strictly(
    route: &Route,
    parts: &Parts,
    seen: &Seen,
    shared: &shared::Shared,
) -> Result<(), Problem> {
    for limit in route.limits.iter().filter(|limit| limit.is_strict()) {
        limit.ask(&limit.key(route, parts, seen), shared).await?;
    }
    Ok(())
}

/// Add RateLimit fields to an answer (draft-ietf-httpapi-ratelimit-headers-10): for all limits if the request
/// was refused, otherwise for those configured to `tell`.
pub fn tell(headers: &mut HeaderMap, route: &Route, parts: &Parts, seen: &Seen, refused: bool, now_ns: u64) {
    let mut text = String::new();
    for limit in route.limits.iter().filter(|limit| refused || limit.tell) {
        let Left { requests, reset_ns } = limit.left(&limit.key(route, parts, seen), now_ns);
        text.clear();
        // Writing to a String can't fail.
        let _ = write!(text, "{};r={requests};t={}", limit.label, reset_ns.div_ceil(1_000_000_000));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append("ratelimit-policy", limit.policy.clone());
            headers.append("ratelimit", value);
        }
    }
}

fn cells(config: &config::Limit, link: Option<&Arc<Link>>) -> Result<Cells, &'static str> {
    if config.algorithm == Algorithm::Gcra {
        let (Some(rate), Some(burst), None, None) =
            (config.rate, config.burst, config.requests, config.window_seconds)
        else {
            return Err("gcra takes a rate and a burst, and no window");
        };
        if !(rate.is_finite() && rate > 0.0 && burst > 0) {
            return Err("the rate must be above 0, the burst at least 1");
        }
        return Ok(match link {
            None => Cells::Local(Gcra::new(rate, burst, KEYS)),
            Some(link) => Cells::Shared {
                cells: SharedGcra::new(rate, burst, KEYS),
                link: Arc::clone(link),
                fallback: config.fallback,
                strict: config.strict,
            },
        });
    }
    let (None, None, Some(requests), Some(seconds)) =
        (config.rate, config.burst, config.requests, config.window_seconds)
    else {
        return Err("a window takes requests and window_seconds, and no rate");
    };
    if link.is_some() {
        return Err("only gcra is shared by gateways: use it, or limits = \"local\"");
    }
    let window_ns = (seconds * 1e9) as u64;
    if requests == 0 || window_ns == 0 {
        return Err("requests start at 1, and a window has some length");
    }
    Ok(match config.algorithm {
        Algorithm::SlidingLog => {
            let keys = (LOGGED / requests as usize).min(KEYS);
            Cells::SlidingLog(Keyed::new(SlidingLog { requests, window_ns }, keys))
        }
        Algorithm::SlidingCounter => {
            Cells::SlidingCounter(Keyed::new(SlidingCounter { requests, window_ns }, KEYS))
        }
        Algorithm::FixedWindow | Algorithm::Gcra => {
            Cells::FixedWindow(Keyed::new(FixedWindow { requests, window_ns }, KEYS))
        }
    })
}

/// A name as a structured-field string (RFC 9651, section 3.3.3), which is ASCII.
fn label(name: &str) -> String {
    let escaped: String = name
        .chars()
        .map(|each| match each {
            '"' | '\\' => Cow::Owned(format!("\\{each}")),
            ' '..='~' => Cow::Owned(each.to_string()),
            _ => Cow::Borrowed("_"),
        })
        .collect();
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_account_and_an_address_of_ipv4_is_however_it_is_written() {
        for (address, account) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::ffff:0:0:1", "2001:db8::/64"),
            ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
            ("", ""),
        ] {
            assert_eq!(of_site(address), account);
        }
    }
}
