//! Route lookup.
//!
//! The most specific path wins, in whatever order routes are declared: an exact path before a prefix, a
//! longer prefix before a shorter one. Among routes with the same path, the first declared whose method, host
//! and headers match wins. If none matches, a less specific path may.
//!
//! Exact paths are in a hash map (client input is never inserted, so a fast hash is safe). Prefixes are
//! sorted, and each links to the longest other prefix that it begins with. The greatest prefix not above a
//! path either is a prefix of that path or begins with all prefixes of it: whatever sorts between a prefix
//! and a string that begins with it begins with that prefix too. So one binary search and a few links find
//! all prefixes, with a thousand routes as with ten. A segment tree (`matchit`) would do as well, but here a
//! prefix may end within a segment.

use std::ops::Deref;

use hyper::Method;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use rustc_hash::FxHashMap;

use crate::Error;
use crate::ambiguity::other_readings;
use crate::config;
use crate::cors::{self, Cors};
use crate::headers::text;
use crate::route::Route;

/// What a route requires of a request beyond its path; an empty part matches everything.
pub struct Conditions {
    methods: Vec<Method>,
    hosts: Vec<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Conditions {
    /// # Errors
    /// `Error::Config` for an invalid method or header.
    pub fn new(config: &config::Route) -> Result<Self, Error> {
        let wrong =
            |what: &str| Error::Config(format!("route {}: {what} can't be in a request", config.path));
        let methods = config
            .methods
            .iter()
            .map(|each| Method::from_bytes(each.as_bytes()).map_err(|_| wrong(&format!("method {each:?}"))));
        let headers = config.headers.iter().map(|(name, value)| {
            let parsed = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
            let (Ok(name), Ok(value)) = parsed else { return Err(wrong(&format!("header {name}: {value}"))) };
            Ok((name, value))
        });
        Ok(Self {
            methods: methods.collect::<Result<_, _>>()?,
            hosts: config.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            headers: headers.collect::<Result<_, _>>()?,
        })
    }

    /// Whether everything but the method matches.
    fn fits(&self, parts: &Parts) -> bool {
        self.fits_host(parts)
            && self
                .headers
                .iter()
                .all(|(name, value)| parts.headers.get_all(name).iter().any(|each| each == value))
    }

    fn fits_host(&self, parts: &Parts) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|each| is_host(each, host(parts)))
    }
}

/// The host name of the request, without its port.
pub fn host(parts: &Parts) -> &str {
    let authority = parts
        .uri
        .authority()
        .map_or_else(|| text(&parts.headers, header::HOST), |authority| authority.as_str());
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// Case-insensitive; `*.example.com` matches every name below example.com.
fn is_host(wanted: &str, given: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(end) => {
            given.len() > end.len()
                && given.as_bytes()[given.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
        }
        None => given.eq_ignore_ascii_case(wanted),
    }
}

struct Prefix {
    text: Box<str>,
    routes: Vec<usize>,
    /// The longest other prefix that this one begins with.
    within: Option<usize>,
}

/// Indexes of the routes, in the order of declaration.
struct Table {
    whole: FxHashMap<Box<str>, Vec<usize>>,
    prefixes: Vec<Prefix>,
    conditions: Vec<Conditions>,
}

impl Table {
    fn new<'a>(routes: impl IntoIterator<Item = (&'a str, Conditions)>) -> Self {
        let mut whole: FxHashMap<Box<str>, Vec<usize>> = FxHashMap::default();
        let mut prefixes: Vec<Prefix> = Vec::new();
        let mut conditions = Vec::new();
        let mut sorted: Vec<(&str, usize)> = Vec::new();
        for (place, (path, asks)) in routes.into_iter().enumerate() {
            conditions.push(asks);
            match path.strip_suffix('*') {
                Some(prefix) => sorted.push((prefix, place)),
                None => whole.entry(path.into()).or_default().push(place),
            }
        }
        sorted.sort_unstable();
        for (text, place) in sorted {
            match prefixes.last_mut().filter(|last| &*last.text == text) {
                Some(same) => same.routes.push(place),
                None => {
                    let mut within = prefixes.len().checked_sub(1);
                    while let Some(outer) = within.filter(|outer| !text.starts_with(&*prefixes[*outer].text))
                    {
                        within = prefixes[outer].within;
                    }
                    prefixes.push(Prefix { text: text.into(), routes: vec![place], within });
                }
            }
        }
        Self { whole, prefixes, conditions }
    }

    /// The index of the route for `path` and `method`; otherwise, the methods that the path has.
    fn find(&self, parts: &Parts, method: &Method, path: &str) -> Result<usize, Vec<&str>> {
        let mut methods = Vec::new();
        let whole = self.whole.get(path).map(Vec::as_slice);
        for place in whole.into_iter().chain(self.prefixes_of(path)).flatten() {
            let conditions = &self.conditions[*place];
            if !conditions.fits(parts) {
                continue;
            }
            if conditions.methods.contains(method) {
                return Ok(*place);
            }
            for other in &conditions.methods {
                if !methods.contains(&other.as_str()) {
                    methods.push(other.as_str());
                }
            }
        }
        Err(methods)
    }

    /// The indexes of the routes that may match when only path, host and method are known: up to the first
    /// that requires no headers.
    fn possible(&self, parts: &Parts, method: &Method, path: &str) -> Vec<usize> {
        let mut possible = Vec::new();
        let whole = self.whole.get(path).map(Vec::as_slice);
        for place in whole.into_iter().chain(self.prefixes_of(path)).flatten() {
            let conditions = &self.conditions[*place];
            if conditions.methods.contains(method) && conditions.fits_host(parts) {
                possible.push(*place);
                if conditions.headers.is_empty() {
                    break;
                }
            }
        }
        possible
    }

    /// The routes of each prefix of `path`, the longest first.
    fn prefixes_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a [usize]> {
        let last = self.prefixes.partition_point(|each| &*each.text <= path).checked_sub(1);
        std::iter::successors(last, |place| self.prefixes[*place].within)
            .map(|place| &self.prefixes[place])
            .filter(|prefix| path.starts_with(&*prefix.text))
            .map(|prefix| prefix.routes.as_slice())
    }
}

/// The routes that a CORS preflight may concern.
pub struct AskedBefore<'a> {
    /// Each may match the actual request.
    pub possible: Vec<&'a Route>,
    /// Of those with CORS, the one that allows least.
    pub strictest: &'a Route,
}

/// All routes of a configuration, in the order of their declaration.
pub struct Routes {
    routes: Vec<Route>,
    table: Table,
    /// Whether any route has CORS.
    shares: bool,
}

impl Routes {
    /// # Errors
    /// `Error::Config` for a method or a header that can't be in a request.
    pub fn new(routes: Vec<Route>) -> Result<Self, Error> {
        let asked: Vec<_> = routes
            .iter()
            .map(|route| Ok((route.config.path.as_str(), Conditions::new(&route.config)?)))
            .collect::<Result<_, Error>>()?;
        let table = Table::new(asked);
        let shares = routes.iter().any(|route| route.cors().is_some());
        Ok(Self { routes, table, shares })
    }

    /// The route for `path` and `method`; otherwise, the methods that the path has (empty if there is no such
    /// path).
    pub fn find(&self, parts: &Parts, method: &Method, path: &str) -> Result<&Route, Vec<&str>> {
        if self.shares
            && let Some(shared) = self.asked_before(parts, path)
        {
            return Ok(shared.strictest);
        }
        self.table.find(parts, method, path).map(|place| &self.routes[place])
    }

    /// Whether a service of `found` may read `path` as the path of a route with other guards. If servers read
    /// a path differently from this gateway, that would bypass those guards.
    pub fn is_ambiguous(&self, parts: &Parts, method: &Method, path: &str, found: &Route) -> bool {
        other_readings(path).iter().any(|reading| {
            let other = self.table.find(parts, method, reading).map(|place| &self.routes[place]);
            other.is_ok_and(|other| !other.guards_like(found) && other.leads_like(found))
        })
    }

    /// The routes that a preflight concerns, if any of them has CORS. A preflight doesn't carry the headers
    /// of the actual request, so it can't say which of a path's routes will match.
    pub fn asked_before(&self, parts: &Parts, path: &str) -> Option<AskedBefore<'_>> {
        let method = cors::method_asked_for(parts)?;
        let possible = self.table.possible(parts, &method, path);
        let possible: Vec<&Route> = possible.into_iter().map(|place| &self.routes[place]).collect();
        let sharing = possible.iter().filter(|route| route.cors().is_some());
        let strictest = *sharing.min_by_key(|route| route.cors().is_some_and(Cors::with_credentials))?;
        Some(AskedBefore { possible, strictest })
    }
}

impl Deref for Routes {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.routes
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    fn asks(methods: &[&str], hosts: &[&str]) -> Conditions {
        let methods = methods.iter().map(|each| each.parse().unwrap()).collect();
        Conditions {
            methods,
            hosts: hosts.iter().map(|&each| each.to_owned()).collect(),
            headers: Vec::new(),
        }
    }

    fn asked(method: &str, path: &str, host: &str) -> Parts {
        Request::builder().method(method).uri(path).header("host", host).body(()).unwrap().into_parts().0
    }

    fn found<'a>(paths: &[&'a str], path: &str) -> Option<&'a str> {
        let table = Table::new(paths.iter().map(|each| (*each, asks(&["GET"], &[]))));
        table.find(&asked("GET", path, "h"), &Method::GET, path).ok().map(|place| paths[place])
    }

    #[test]
    fn the_most_specific_path_wins_whatever_the_order() {
        for (path, wanted) in [
            ("/a/b", "/a/b"),
            ("/a/bc", "/a/b*"),
            ("/a/bc/d", "/a/bc/d"),
            ("/a/c", "/a/*"),
            ("/a", "/*"),
            ("/zzz", "/*"),
        ] {
            assert_eq!(found(&["/*", "/a/*", "/a/b", "/a/b*", "/a/bc/d"], path), Some(wanted), "{path}");
        }
    }

    #[test]
    fn hosts_choose_among_routes_of_a_path_and_a_method_may_be_further_up() {
        let table = Table::new([
            ("/*", asks(&["POST"], &[])),
            ("/a", asks(&["GET"], &["api.example.com"])),
            ("/a", asks(&["GET", "PUT"], &["*.example.com"])),
        ]);
        let place = |method: &str, path: &str, host: &str| {
            let parts = asked(method, path, host);
            table.find(&parts, &parts.method, path).map_err(|methods| methods.join(","))
        };
        assert_eq!(place("GET", "/a", "API.example.com:8443"), Ok(1));
        assert_eq!(place("GET", "/a", "shop.example.com"), Ok(2));
        assert_eq!(place("GET", "/a", "example.com"), Err("POST".into()));
        assert_eq!(place("POST", "/a", "shop.example.com"), Ok(0));
        assert_eq!(place("DELETE", "/a", "shop.example.com"), Err("GET,PUT,POST".into()));
        assert_eq!(place("DELETE", "/b", "h"), Err("POST".into()));
    }

    #[test]
    #[ignore = "measures time: `make bench-routes`"]
    fn a_thousand_routes_cost_little_more_than_ten() {
        const ROUNDS: u32 = 2_000_000;
        let paths = |count: usize| -> Vec<String> {
            let path = |number| format!("/services/{number}/{}", if number % 2 == 0 { "*" } else { "whole" });
            (0..count).map(path).collect()
        };
        let nanoseconds = |count: usize| {
            let paths = paths(count);
            let table = Table::new(paths.iter().map(|each| (each.as_str(), asks(&["GET"], &[]))));
            let parts = asked("GET", "/", "h");
            let asked: Vec<String> = paths.iter().map(|path| path.replace('*', "below")).collect();
            let began = std::time::Instant::now();
            for path in asked.iter().cycle().take(ROUNDS as usize) {
                assert!(std::hint::black_box(table.find(&parts, &Method::GET, path)).is_ok());
            }
            began.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
        };
        let (ten, thousand) = (nanoseconds(10), nanoseconds(1_000));
        println!("finding one of 10 routes takes {ten:.0} ns, one of 1,000 {thousand:.0} ns");
        assert!(thousand < ten + 200.0, "{thousand} ns: a request takes 10,000");
    }

    proptest! {
        #[test]
        fn every_route_that_a_scan_would_find_is_found(
            paths in prop::collection::vec("/[ab]{0,4}\\*?", 0..40),
            asked in "/[ab]{0,5}",
        ) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let scanned = paths
                .iter()
                .filter(|path| path.strip_suffix('*').map_or(**path == asked, |prefix| asked.starts_with(prefix)))
                .max_by_key(|path| (!path.ends_with('*'), path.len()));
            prop_assert_eq!(found(&paths, &asked), scanned.copied());
        }

        #[test]
        fn whatever_headers_a_request_will_have_its_route_is_among_those_that_are_possible(
            routes in prop::collection::vec(
                ("/[ab]{0,2}\\*?", prop::sample::select(vec!["GET", "PUT"]), prop::option::of("[12]")), 0..12,
            ),
            path in "/[ab]{0,3}",
        ) {
            let table = Table::new(routes.iter().map(|(path, method, value)| {
                let mut conditions = asks(&[method], &[]);
                let value = value.iter().map(|value| HeaderValue::from_str(value).unwrap());
                conditions.headers = value.map(|value| (HeaderName::from_static("v"), value)).collect();
                (path.as_str(), conditions)
            }));
            let possible = table.possible(&asked("OPTIONS", &path, "h"), &Method::PUT, &path);
            let taking: Vec<_> = ["0", "1", "2"]
                .iter()
                .filter_map(|value| {
                    let mut parts = asked("PUT", &path, "h");
                    parts.headers.insert("v", HeaderValue::from_static(value));
                    table.find(&parts, &Method::PUT, &path).ok()
                })
                .collect();
            prop_assert!(taking.iter().all(|place| possible.contains(place)));
            prop_assert_eq!(taking.is_empty(), possible.is_empty());
        }
    }
}
