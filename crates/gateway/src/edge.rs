//! What the gateway adds to a route's answers, or answers itself: CORS (`cors.rs`), redirects
//! (`redirect.rs`), and edits of answer headers.
//!
//! A route with none of these has no `Edge`.

use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use crate::Error;
use crate::ambiguity::checked_path;
use crate::config;
use crate::cors::{self, Cors};
use crate::redirect::Redirect;
use crate::respond::{Body, Problem};
use crate::rewrite::Edits;
use crate::route::Route;
use crate::routing::Routes;

pub struct Edge {
    cors: Option<Cors>,
    redirect: Option<Redirect>,
    /// Edits of answer headers.
    edits: Option<Edits>,
}

impl Edge {
    /// `None` if the route configures nothing of this.
    ///
    /// # Errors
    /// `Error::Config` for an invalid setting.
    pub fn new(route: &config::Route) -> Result<Option<Box<Self>>, Error> {
        let cors =
            route.cors.as_ref().map(|cors| Cors::new(&route.path, cors, &route.methods)).transpose()?;
        let redirect = Redirect::new(route)?;
        let edits =
            route.response_headers.as_ref().map(|edits| Edits::of_answers(&route.path, edits)).transpose()?;
        let anything = cors.is_some() || redirect.is_some() || edits.is_some();
        Ok(anything.then(|| Box::new(Self { cors, redirect, edits })))
    }

    /// The gateway's own answer, if the service isn't to be asked.
    pub fn answer(&self, routes: &Routes, parts: &Parts) -> Option<Result<Response<Body>, Problem>> {
        if self.cors.is_some()
            && let Some(method) = cors::method_asked_for(parts)
        {
            let about = checked_path(parts).ok().and_then(|path| routes.asked_before(parts, &path));
            return Some(match about {
                Some(about) => cors::answer(parts, &about),
                // The route accepts OPTIONS, but its service must not answer for other routes.
                None => {
                    let detail = format!("no route here lets pages ask by {method}");
                    Err(Problem::new(StatusCode::FORBIDDEN, detail))
                }
            });
        }
        self.redirect.as_ref().map(|redirect| redirect.answer(parts))
    }

    /// Set the headers of an answer, whoever gave it.
    pub fn mark(&self, asked: &Parts, answer: &mut HeaderMap) {
        if let Some(edits) = &self.edits {
            edits.apply(answer);
        }
        if let Some(cors) = &self.cors {
            cors.mark(asked, answer);
        }
    }
}

impl Route {
    /// The CORS policy, if there is one.
    pub fn cors(&self) -> Option<&Cors> {
        self.edge.as_ref().and_then(|edge| edge.cors.as_ref())
    }
}
