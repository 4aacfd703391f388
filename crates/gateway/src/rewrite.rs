//! Rewrites of a request to the service: path prefix and headers.
//!
//! A rewrite is applied last, just before an instance is asked. Route, identity, signature, limits, hooks,
//! the cache key, the access log and traces use the request as the client sent it; headers from hooks
//! override configured ones.
//!
//! Not configurable are headers that the gateway vouches for (`headers::set_by_gateway`), framing and
//! hop-by-hop headers, credentials, and Idempotency-Key.

use counterfoil_policy::rewrite::Prefix;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::{StatusCode, http};

use crate::Error;
use crate::config;
use crate::headers::{
    API_KEY, IDEMPOTENCY_KEY, REQUEST_ID, as_read, of_one_connection, set_by_gateway, words,
};
use crate::proxy::EFFECT;
use crate::respond::Problem;

/// Headers that define a message's framing and the interpretation of its body.
const OF_THE_BODY: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::EXPECT,
    header::TRAILER,
];

pub struct Rewrite {
    prefix: Option<Prefix>,
    edits: Option<Edits>,
}

impl Rewrite {
    /// `None` if the route rewrites nothing.
    ///
    /// # Errors
    /// `Error::Config` for an invalid rewrite.
    pub fn new(route: &config::Route) -> Result<Option<Self>, Error> {
        let prefix = match &route.rewrite {
            None => None,
            Some(config::Rewrite { prefix, to }) => {
                let prefix = Prefix::new(prefix, to).ok().filter(|prefix| prefix.begins(&route.path));
                let detail = "all its paths must begin with the prefix of its rewrite, and end it at a slash";
                Some(prefix.ok_or_else(|| Error::Config(format!("route {}: {detail}", route.path)))?)
            }
        };
        let edits =
            route.request_headers.as_ref().map(|edits| Edits::of_requests(&route.path, edits)).transpose()?;
        Ok((prefix.is_some() || edits.is_some()).then_some(Self { prefix, edits }))
    }

    /// The request as the service gets it.
    ///
    /// # Errors
    /// 400 for a path without the prefix, which can't be one of the route.
    pub fn of(&self, parts: &Parts) -> Result<Box<Parts>, Problem> {
        let mut parts = Box::new(parts.clone());
        if let Some(prefix) = &self.prefix {
            parts.uri = replaced(prefix, &parts.uri).ok_or_else(|| {
                Problem::new(StatusCode::BAD_REQUEST, "the path has no place at the service")
            })?;
        }
        if let Some(edits) = &self.edits {
            leave_connection(&mut parts.headers);
            edits.leave_twins(&mut parts.headers);
            edits.apply(&mut parts.headers);
        }
        Ok(parts)
    }
}

fn replaced(prefix: &Prefix, uri: &Uri) -> Option<Uri> {
    let mut target = prefix.replaced(uri.path())?;
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut parts: http::uri::Parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

/// Remove the headers that the client lists in Connection, so that it can't list one that the rewrite sets.
/// `te` is handled where the request is written.
fn leave_connection(headers: &mut HeaderMap) {
    let Some(_) = headers.get(header::CONNECTION) else { return };
    let options: Vec<HeaderName> = words(headers, header::CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|option| *option != header::TE)
        .collect();
    for option in options {
        headers.remove(option);
    }
    headers.remove(header::CONNECTION);
}

/// Edits of headers: remove, then set, then add.
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// # Errors
    /// `Error::Config` for an invalid header, or one that only the gateway sets.
    pub fn of_requests(path: &str, config: &config::HeaderEdits) -> Result<Self, Error> {
        Self::new(path, config, |name| {
            set_by_gateway(name.as_str())
                || [header::AUTHORIZATION, API_KEY, IDEMPOTENCY_KEY].contains(name)
                || name == "traceparent"
        })
    }

    /// # Errors
    /// As for requests.
    pub fn of_answers(path: &str, config: &config::HeaderEdits) -> Result<Self, Error> {
        Self::new(path, config, |name| {
            [REQUEST_ID, EFFECT, header::CONTENT_TYPE, header::ALT_SVC].contains(name)
                || ["access-control-", "x-counterfoil-"]
                    .iter()
                    .any(|beginning| name.as_str().starts_with(beginning))
        })
    }

    fn new(
        path: &str,
        config: &config::HeaderEdits,
        is_own: impl Fn(&HeaderName) -> bool,
    ) -> Result<Self, Error> {
        let checked = |name: &String| {
            let parsed = HeaderName::from_bytes(name.as_bytes());
            let may_change = |name: &HeaderName| {
                !is_own(name)
                    && !of_one_connection(name.as_str())
                    && !OF_THE_BODY.contains(name)
                    && !name.as_str().starts_with("sec-websocket-")
            };
            parsed.ok().filter(may_change).ok_or_else(|| {
                Error::Config(format!("route {path}: the header {name:?} is not to be changed: leave it out"))
            })
        };
        let pair = |(name, value): (&String, &String)| {
            let parsed = HeaderValue::from_str(value);
            let value =
                parsed.map_err(|_| Error::Config(format!("route {path}: {value:?} can't be in a header")))?;
            Ok((checked(name)?, value))
        };
        Ok(Self {
            remove: config.remove.iter().map(checked).collect::<Result<_, _>>()?,
            set: config.set.iter().map(pair).collect::<Result<_, Error>>()?,
            add: config.add.iter().map(pair).collect::<Result<_, Error>>()?,
        })
    }

    /// Remove underscore variants of headers that are removed or set: some services read them as the same
    /// header (`headers::as_read`).
    fn leave_twins(&self, headers: &mut HeaderMap) {
        let replaced = || self.remove.iter().chain(self.set.iter().map(|(name, _)| name));
        let is_twin = |name: &&HeaderName| {
            let read = as_read(name.as_str());
            name.as_str().contains('_') && replaced().any(|each| *as_read(each.as_str()) == *read)
        };
        let twins: Vec<HeaderName> = headers.keys().filter(is_twin).cloned().collect();
        for twin in twins {
            headers.remove(twin);
        }
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hyper::Request;

    use super::*;

    fn edits(verb: &str, name: &str) -> config::HeaderEdits {
        let pair = || BTreeMap::from([(name.to_owned(), "forged".to_owned())]);
        let mut edits =
            config::HeaderEdits { remove: Vec::new(), set: BTreeMap::new(), add: BTreeMap::new() };
        match verb {
            "set" => edits.set = pair(),
            "add" => edits.add = pair(),
            _ => edits.remove = vec![name.to_owned()],
        }
        edits
    }

    #[test]
    fn what_the_gateway_vouches_for_and_what_frames_a_message_is_not_to_be_changed() {
        let framing =
            ["Connection", "transfer-encoding", "Content-Length", "te", "upgrade", "trailer", "expect"];
        let requests =
            ["Host", "X-Forwarded-For", "Early-Data", "X-Counterfoil-Tenant", "Authorization", "x-api-key"];
        let answers = ["x-request-id", "Counterfoil-Effect", "Access-Control-Allow-Origin", "content-type"];
        for verb in ["set", "add", "remove"] {
            for name in framing.iter().chain(&requests) {
                assert!(Edits::of_requests("/", &edits(verb, name)).is_err(), "{verb} {name}");
            }
            for name in framing.iter().chain(&answers) {
                assert!(Edits::of_answers("/", &edits(verb, name)).is_err(), "{verb} {name}");
            }
            assert!(Edits::of_requests("/", &edits(verb, "x-app")).is_ok());
            assert!(Edits::of_answers("/", &edits(verb, "x-app")).is_ok());
        }
    }

    #[test]
    fn what_is_set_or_taken_away_a_client_can_not_say_with_underscores() {
        let edits = config::HeaderEdits {
            remove: vec!["x-debug".into()],
            set: BTreeMap::from([("x-role".into(), "guest".into())]),
            add: BTreeMap::from([("x-more".into(), "1".into())]),
        };
        let edits = Edits::of_requests("/", &edits).unwrap();
        let rewrite = Rewrite { prefix: None, edits: Some(edits) };
        let names = ["x-role", "x_role", "x-debug", "x_debug", "x_more", "x_app"];
        let request = names.iter().fold(Request::get("/"), |request, name| request.header(*name, "admin"));
        let parts = rewrite.of(&request.body(()).unwrap().into_parts().0).unwrap();
        let mut left: Vec<_> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("x-more", "1"), ("x-role", "guest"), ("x_app", "admin"), ("x_more", "admin")]);
    }

    #[test]
    fn whatever_a_request_is_it_goes_to_the_same_host_with_another_beginning() {
        let prefix = Prefix::new("/api", "/v2").unwrap();
        let rewrite = Rewrite { prefix: Some(prefix), edits: None };
        for (asked, wanted) in [
            ("/api/x?y", Some("/v2/x?y")),
            ("/api?", Some("/v2?")),
            ("https://shop.test/api//x", Some("https://shop.test/v2/x")),
            ("/other", None),
            ("*", None),
        ] {
            let parts = Request::builder().uri(asked).body(()).unwrap().into_parts().0;
            let found = rewrite.of(&parts).ok().map(|parts| parts.uri.to_string());
            assert_eq!(found.as_deref(), wanted);
        }
    }
}
