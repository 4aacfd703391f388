//! The record of a request: counters, access log, trace.
//!
//! A request is recorded just before its answer is sent. If the client disconnects first, there is no answer,
//! but the service may have executed the request: dropping the request's state then makes the record. So
//! every request has exactly one record.

use std::io;

use hyper::StatusCode;
use hyper::http::request::Parts;

use crate::access_log::Stub;
use crate::headers::{self, cut, text};
use crate::proxy::Seen;
use crate::route::Route;
use crate::shared::now_us;
use crate::snapshot::Snapshot;
use crate::tracing::Span;

/// Client-supplied values in logs are truncated to this many bytes.
const LOGGED_LIMIT: usize = 256;
/// The status recorded when the client has disconnected: nginx's, never sent in an answer.
const GIVEN_UP: u16 = 499;

/// A request until it is answered or abandoned, when it is recorded.
pub struct Record<'a> {
    snapshot: &'a Snapshot,
    route: Option<&'a Route>,
    pub parts: Parts,
    pub seen: Seen,
    /// Whether it has been recorded.
    settled: bool,
}

impl<'a> Record<'a> {
    pub fn new(snapshot: &'a Snapshot, route: Option<&'a Route>, parts: Parts, seen: Seen) -> Self {
        Self { snapshot, route, parts, seen, settled: false }
    }

    /// Time since the request arrived.
    pub fn duration_us(&self) -> u64 {
        u64::try_from(self.seen.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Count the outcome and write the stub.
    ///
    /// # Errors
    /// The stub wasn't written in full.
    pub fn settle(&mut self, status: StatusCode, effect: &str, duration_us: u64) -> io::Result<()> {
        self.settled = true;
        let Self { snapshot, route, parts, seen, .. } = self;
        match route {
            Some(route) => route.count(seen.side, status, duration_us, seen.cache),
            None => snapshot.unrouted.add(status, duration_us),
        }
        let Some(log) = &snapshot.access_log else { return Ok(()) };
        let (tenant, tier) = seen.bearer.as_ref().map_or(("", ""), |bearer| (&bearer.tenant, &bearer.tier));
        log.write(&Stub {
            time_us: now_us().saturating_sub(duration_us),
            request_id: seen.request_id.to_str().unwrap_or_default(),
            trace_id: seen.trace.as_ref().map_or("", |trace| &trace.id),
            method: parts.method.as_str(),
            path: cut(parts.uri.path(), LOGGED_LIMIT),
            status: status.as_u16(),
            tenant,
            tier,
            service: route.map_or("", |route| route.service(seen.side)),
            instance: seen.endpoint.as_ref().map_or("", |endpoint| &endpoint.instance),
            attempts: seen.attempts,
            duration_us,
            idempotency_key: cut(text(&parts.headers, headers::IDEMPOTENCY_KEY), LOGGED_LIMIT),
            effect,
            cache: seen.cache.name(),
        })
    }

    /// Count the answer for its tenant and export its span, if configured.
    pub fn tell(&mut self, status: StatusCode, duration_us: u64) {
        let Self { snapshot, route, parts, seen, .. } = self;
        if let Some(tenants) = &snapshot.tenants {
            tenants.add(seen.bearer.as_ref().map_or("", |bearer| &bearer.tenant), status);
        }
        if let (Some(tracing), Some(trace)) = (&snapshot.tracing, seen.trace.take()) {
            tracing.end(trace.context, status.as_u16(), duration_us, |context| Span {
                context,
                start_us: now_us().saturating_sub(duration_us),
                duration_us,
                method: parts.method.as_str().to_owned(),
                scheme: if snapshot.config.certificate.is_some() { "https" } else { "http" },
                route: route.map(|route| route.config.path.clone()).unwrap_or_default(),
                path: cut(parts.uri.path(), LOGGED_LIMIT).to_owned(),
                status: status.as_u16(),
                tenant: seen.bearer.as_ref().map(|bearer| bearer.tenant.clone()).unwrap_or_default(),
                service: route.map(|route| route.service(seen.side).to_owned()).unwrap_or_default(),
                instance: seen
                    .endpoint
                    .as_ref()
                    .map(|endpoint| endpoint.instance.clone())
                    .unwrap_or_default(),
                attempts: seen.attempts,
                request_id: seen.request_id.to_str().unwrap_or_default().to_owned(),
            });
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let status = StatusCode::from_u16(GIVEN_UP).unwrap_or(StatusCode::REQUEST_TIMEOUT);
        let duration_us = self.duration_us();
        // No client is left to refuse.
        let _ = self.settle(status, "", duration_us);
        self.tell(status, duration_us);
    }
}
