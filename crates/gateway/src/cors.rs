//! Cross-origin requests of browsers (the CORS protocol of the Fetch standard), answered by the gateway
//! so that no service has to know of them.
//!
//! A preflight asks before the request, and without its credentials, so it is answered before anything
//! else is asked of a client. What it may ask is settled by the route of the request that it is
//! about, which it doesn't name whole: where routes of a path differ by headers, all that the request may
//! come to must let it pass. It is told of the one method and the headers that it asked for, and of no
//! others, since a browser keeps what it hears for the address, whatever route another method takes.
//!
//! What a service itself says of origins is taken away: a header that comes twice is to a browser as if
//! none had come.

use counterfoil_policy::cors::{Origins, Preflight, Refused, Rules};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::Error;
use crate::config;
use crate::headers::{cut, vary_by};
use crate::respond::{Body, Problem};
use crate::routing::AskedBefore;

/// What a client wrote is told again up to this many bytes.
const TOLD_LIMIT: usize = 128;
/// What a service may have said, all of it the gateway's to say now.
const ALLOWANCES: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

/// Whom a route lets ask.
pub struct Cors {
    rules: Rules,
    credentials: bool,
    exposed: Option<HeaderValue>,
    max_age_seconds: u32,
}

/// The method that a preflight asks for, if a request is one.
pub fn method_asked_for(parts: &Parts) -> Option<Method> {
    if parts.method != Method::OPTIONS || !parts.headers.contains_key(header::ORIGIN) {
        return None;
    }
    let method = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(method.as_bytes()).ok()
}

/// The one origin that a request names; it is nobody's if it names several.
fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    origins.next().filter(|_| origins.next().is_none())
}

impl Cors {
    /// # Errors
    /// `Error::Config` for what no browser would send or heed.
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

    /// Whether pages may send cookies and the like along.
    pub fn with_credentials(&self) -> bool {
        self.credentials
    }

    /// Say in an answer who may read it, and take away what a service says of that.
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
            // Also where nobody is let in: what a cache keeps of that would be for everybody.
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

/// Answer a preflight: 204 if every route that may take the request lets it, or 403 and why not. Who may
/// read the answer is said by `Cors::mark`, as in every other.
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
