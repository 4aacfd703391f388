//! Which instance of a service gets the next request.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::service::{Endpoint, Upstream};

/// The next instance in turn whose breaker admits a request, another than `tried` if there is one.
pub fn choose(upstream: &Upstream, now_ns: u64, tried: Option<&Endpoint>) -> Option<Arc<Endpoint>> {
    let endpoints = upstream.endpoints.load();
    let first = upstream.next.fetch_add(1, Ordering::Relaxed);
    let in_turn = || (0..endpoints.len()).map(|step| &endpoints[(first + step) % endpoints.len()]);
    let is_tried = |each: &Endpoint| tried.is_some_and(|tried| tried.instance == each.instance);
    let admits =
        |each: &Arc<Endpoint>| each.breaker.lock().unwrap_or_else(PoisonError::into_inner).admit(now_ns);
    in_turn()
        .find(|each| !is_tried(each) && admits(each))
        .or_else(|| in_turn().find(|each| is_tried(each) && admits(each)))
        .cloned()
}
