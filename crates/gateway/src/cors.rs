//! CORS (the Fetch standard), answered by the gateway so that services don't need to implement it.
//!
//! A preflight comes before the request and carries no credentials, so it is answered before any other check.
//! The route of the actual request decides, but a preflight doesn't identify that route completely: if routes
//! of a path differ by headers, every route that may match must allow the request. The answer allows only the
//! requested method and headers, since browsers cache it for the URL, whatever route another method would
//! match.
//!
//! CORS headers from the service are removed: browsers treat a duplicate header as if there were none.

use counterfoil_policy::cors::{Origins, Preflight, Refused, Rules};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::Error;
use crate::config;
use crate::headers::{cut, vary_by};
use crate::respond::{Body, Problem};
use crate::routing::AskedBefore;

/// Client-supplied text is quoted in errors up to this many bytes.
const TOLD_LIMIT: usize = 128;
/// CORS headers that are removed from a service's answers.
const ALLOWANCES: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

/// The CORS policy of a route.
pub struct Cors {
    rules: Rules,
    credentials: bool,
    exposed: Option<HeaderValue>,
    max_age_seconds: u32,
}

/// The method that a preflight asks for; `None` if the request isn't a preflight.
pub fn method_asked_for(parts: &Parts) -> Option<Method> {
    if parts.method != Method::OPTIONS || !parts.headers.contains_key(header::ORIGIN) {
        return None;
    }
    let method = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(method.as_bytes()).ok()
}

/// The origin of a request; `None` if it names several.
fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    origins.next().filter(|_| origins.next().is_none())
}

impl Cors {
    /// # Errors
    /// `Error::Config` for settings that no browser would send or honor.
    pub fn new(path: &str, config: &config::Cors, methods: &[String]) -> Result<Self, Error> {
        let wrong = |what: String| Error::Config(format!("route {path}: cors: {what}"));
        let origins = Origins::parse(config.origins.iter().map(String::as_str)).map_err(|origin| {
            wrong(format!("{origin:?} is no origin: use *, https://shop.example or https://*.shop.example"))
        })?;
        let everything = origins.is_everybody() || config.exposed_headers.iter().any(|name| name == "*");
        if config.credentials && everything {
            return Err(wrong("credentials can't go with *: name the origins and the headers".into()));
        }
        let exposed = config.exposed_headers.join(", ");
        let exposed =
            HeaderValue::from_str(&exposed).map_err(|_| wrong(format!("{exposed:?} can't be exposed")))?;
        let rules = Rules {
            origins,
            methods: if config.methods.is_empty() { methods.to_vec() } else { config.methods.clone() },
            headers: config.headers.clone(),
        };
        Ok(Self {
            rules,
            credentials: config.credentials,
            exposed: (!exposed.is_empty()).then_some(exposed),
            max_age_seconds: config.max_age_seconds,
        })
    }

    /// Whether requests may carry credentials such as cookies.
    pub fn with_credentials(&self) -> bool {
        self.credentials
    }

    /// Set the CORS headers of an answer, and remove the service's.
    pub fn mark(&self, asked: &Parts, answer: &mut HeaderMap) {
        let before = method_asked_for(asked).is_some();
        if !before {
            for name in &ALLOWANCES {
                answer.remove(name);
            }
        }
        if self.rules.origins.is_everybody() {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            // Also if the origin isn't allowed: otherwise a cache would reuse that answer for every origin.
            vary_by(answer, "Origin");
            let allowed = origin(&asked.headers)
                .filter(|origin| origin.to_str().is_ok_and(|origin| self.rules.origins.allow(origin)));
            let Some(origin) = allowed else { return };
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        if self.credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(exposed) = self.exposed.as_ref().filter(|_| !before) {
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }
}

/// Answer a preflight: 204 if every route that may match the request allows it, otherwise 403 with the
/// reason. `Cors::mark` adds the other CORS headers, as for every answer.
pub fn answer(asked: &Parts, about: &AskedBefore<'_>) -> Result<Response<Body>, Problem> {
    let headers = asked.headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let headers: Vec<&str> = headers.iter().map(|line| line.to_str().unwrap_or("?")).collect();
    let headers = headers.join(",");
    let line = |name| {
        asked.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default()
    };
    let preflight = Preflight {
        origin: origin(&asked.headers).and_then(|origin| origin.to_str().ok()).unwrap_or_default(),
        method: line(header::ACCESS_CONTROL_REQUEST_METHOD),
        headers: &headers,
    };
    let mut max_age_seconds = u32::MAX;
    for route in &about.possible {
        let cors = route.cors();
        cors.map_or(Err(Refused::Origin), |cors| cors.rules.grant(&preflight))
            .map_err(|refused| Problem::new(StatusCode::FORBIDDEN, told(&refused, &preflight)))?;
        max_age_seconds = cors.map_or(0, |cors| cors.max_age_seconds).min(max_age_seconds);
    }
    let mut answer = Response::new(Body::Whole(bytes::Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let granted = answer.headers_mut();
    if let Some(method) = asked.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD) {
        granted.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    }
    let names = preflight.header_names().collect::<Vec<_>>().join(", ");
    if let (false, Ok(names)) = (names.is_empty(), HeaderValue::from_str(&names)) {
        granted.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    granted.insert(header::ACCESS_CONTROL_MAX_AGE, max_age_seconds.into());
    granted.insert(
        header::VARY,
        HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers"),
    );
    Ok(answer)
}

fn told(refused: &Refused<'_>, asked: &Preflight<'_>) -> String {
    let origin = cut(asked.origin, TOLD_LIMIT);
    match refused {
        Refused::Origin => format!("pages of {origin} may not ask here: it is not among the route's origins"),
        Refused::Method => {
            let method = cut(asked.method, TOLD_LIMIT);
            format!(
                "pages of {origin} may not ask by {method}: it is not among the methods of the route's cors"
            )
        }
        Refused::Header(name) => {
            let name = cut(name, TOLD_LIMIT);
            format!(
                "pages of {origin} may not send the header {name}: it is not among the headers of the route's cors"
            )
        }
    }
}
