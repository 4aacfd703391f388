//! Redirect routes, which have no service.
//!
//! A redirect is the same for every client, so neither identity nor limits are checked.

use counterfoil_policy::redirect::{Path, Place, Target, is_host};
use counterfoil_policy::rewrite::{Prefix, is_plain};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use crate::Error;
use crate::config;
use crate::respond::{Body, Problem};
use crate::routing::host;

pub struct Redirect {
    status: StatusCode,
    target: Target,
}

impl Redirect {
    /// `None` if the route has no redirect.
    ///
    /// # Errors
    /// `Error::Config` for an invalid status or location.
    pub fn new(route: &config::Route) -> Result<Option<Self>, Error> {
        let Some(config) = &route.redirect else { return Ok(None) };
        let wrong = |what: &str| Error::Config(format!("route {}: redirect: {what}", route.path));
        let status = StatusCode::from_u16(config.status)
            .ok()
            .filter(|status| matches!(status.as_u16(), 301 | 302 | 307 | 308))
            .ok_or_else(|| wrong("the status is 301, 302, 307 or 308"))?;
        let scheme = config.scheme.as_str();
        if !matches!(scheme, "" | "http" | "https") {
            return Err(wrong("the scheme is http or https"));
        }
        let place = match (scheme, config.host.as_str()) {
            ("", "") => Place::Same,
            (scheme, "") if route.hosts.is_empty() => {
                return Err(wrong(&format!(
                    "{scheme} needs a host, or hosts that clients of the route ask for"
                )));
            }
            (scheme, "") => Place::Scheme(scheme.into()),
            (scheme, host) => {
                let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
                if !is_host(name.map_or(host, |(name, _)| name)) {
                    return Err(wrong("the host is a name or an address, with a port or without"));
                }
                Place::Host(format!("{}://{host}", if scheme.is_empty() { "https" } else { scheme }).into())
            }
        };
        let path = match (config.prefix.as_str(), config.path.as_str()) {
            ("", "") if place == Place::Same => return Err(wrong("it leads back to where it comes from")),
            ("", "") => Path::Kept,
            ("", path) if is_plain(path) => Path::Whole(path.into()),
            (prefix, "") => Path::Prefix(
                Prefix::new(prefix, &config.to).ok().filter(|prefix| prefix.begins(&route.path)).ok_or_else(
                    || wrong("all paths of the route must begin with the prefix, and end it at a slash"),
                )?,
            ),
            _ => return Err(wrong("it has a plain path, or a prefix that is replaced")),
        };
        Ok(Some(Self { status, target: Target { place, path, query: config.query } }))
    }

    pub fn answer(&self, parts: &Parts) -> Result<Response<Body>, Problem> {
        let location = self
            .target
            .location(host(parts), parts.uri.path(), parts.uri.query())
            .and_then(|location| HeaderValue::try_from(location).ok())
            .ok_or_else(|| {
                Problem::new(StatusCode::BAD_REQUEST, "there is no place that host and path lead to")
            })?;
        let mut answer = Response::new(Body::Whole(bytes::Bytes::new()));
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(header::LOCATION, location);
        Ok(answer)
    }
}
