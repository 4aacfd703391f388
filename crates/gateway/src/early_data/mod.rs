//! Requests in early data (0-RTT), which may be replays, and status 425 (RFC 8470).
//!
//! Early data arrives over QUIC and over TCP (`accept.rs`, `stream.rs`); the following holds for both.
//!
//! Until the handshake is complete, nothing proves that early data is fresh and from the client that it
//! claims to be from. This gateway accepts the early data of a session at most once, since it forgets a
//! session on its first resumption (`sessions.rs`). But an attacker can make a client send the same request
//! again, to another gateway or after a broken connection. Unsafe requests therefore wait for the handshake,
//! instead of being answered 425: the client loses nothing compared to not using early data, whereas a 425
//! costs another round trip, and not every client retries.
//!
//! Requests with safe methods are forwarded at once with `Early-Data: 1`, so that a service can respond 425,
//! which is passed on. A proxy in front of this gateway may also have accepted early data, and marks it the
//! same way. The gateway can't wait for the handshake with that proxy, so it answers unsafe requests with
//! 425.

mod accept;
mod stream;

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use tokio::sync::watch;

use crate::respond::Problem;

pub use accept::{Accepted, accept};

/// The only valid value is 1; any other is treated the same (RFC 8470, section 5.1).
pub const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// A client's handshake that may still be under way. Requests received before its completion carry it.
#[derive(Clone)]
pub struct Handshake(watch::Receiver<bool>);

impl Handshake {
    /// A handshake under way, and the sender that reports its completion. If the sender is dropped before,
    /// the handshake has failed.
    pub fn begun() -> (watch::Sender<bool>, Self) {
        let (complete, handshake) = watch::channel(false);
        (complete, Self(handshake))
    }

    pub fn is_complete(&self) -> bool {
        *self.0.borrow()
    }

    /// Wait for the end of the handshake and return whether it succeeded.
    async fn end(mut self) -> bool {
        self.0.wait_for(|complete| *complete).await.is_ok()
    }
}

/// Requests that might be replays, by outcome.
#[derive(Default)]
pub struct Counts {
    pub marked: AtomicU64,
    pub waited: AtomicU64,
    pub refused: AtomicU64,
}

/// How to treat a request that may be a replay.
pub enum Early<'a> {
    /// It can't be a replay.
    Settled,
    /// Forward it with `Early-Data: 1`.
    Marked,
    /// Forward it once the handshake has succeeded.
    Waits(&'a Handshake),
    Refused,
}

impl<'a> Early<'a> {
    /// `allowed`: whether the route permits early data.
    pub fn of(parts: &'a Parts, allowed: bool) -> Self {
        let told = parts.headers.contains_key(EARLY_DATA);
        // The gateway can't tell whether the content of a tunnel is safe, whichever protocol is upgraded to.
        let tunnel = parts.headers.contains_key(header::UPGRADE);
        let passes = allowed && parts.method.is_safe() && !tunnel;
        let open = || parts.extensions.get::<Handshake>().filter(|handshake| !handshake.is_complete());
        match (told, passes) {
            (true, true) => Self::Marked,
            (true, false) => Self::Refused,
            (false, passes) => match open() {
                None => Self::Settled,
                Some(_) if passes => Self::Marked,
                Some(handshake) => Self::Waits(handshake),
            },
        }
    }
}

/// Wait for the handshake if necessary, and return whether the request may still be a replay.
///
/// # Errors
/// 425: the request must not be forwarded as a potential replay, and there is no handshake to wait for, or it
/// failed.
pub async fn settle(early: Early<'_>, counts: &Counts) -> Result<bool, Problem> {
    let count = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
    match early {
        Early::Settled => return Ok(false),
        Early::Marked => {
            count(&counts.marked);
            return Ok(true);
        }
        Early::Waits(handshake) => {
            count(&counts.waited);
            if handshake.clone().end().await {
                return Ok(false);
            }
        }
        Early::Refused => {}
    }
    count(&counts.refused);
    Err(too_early())
}

fn too_early() -> Problem {
    Problem::new(
        StatusCode::TOO_EARLY,
        "the request came in early data and could be a replay: send it again, after the handshake",
    )
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use hyper::{Method, Request};

    use super::*;

    fn parts(method: Method, told: Option<&'static str>, handshake: Option<&Handshake>) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        if let Some(value) = told {
            parts.headers.insert(EARLY_DATA, HeaderValue::from_static(value));
        }
        if let Some(handshake) = handshake {
            parts.extensions.insert(handshake.clone());
        }
        parts
    }

    #[tokio::test]
    async fn what_changes_something_waits_for_the_handshake_and_fails_with_it() {
        for completes in [true, false] {
            let (complete, handshake) = Handshake::begun();
            let post = parts(Method::POST, None, Some(&handshake));
            let waiting = tokio::spawn(async move {
                let Early::Waits(handshake) = Early::of(&post, true) else { panic!("it may not pass") };
                let waited = settle(Early::Waits(handshake), &Counts::default()).await;
                (waited, matches!(Early::of(&post, true), Early::Settled))
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            if completes {
                complete.send_replace(true);
            }
            drop(complete);
            let (waited, settled) = waiting.await.unwrap();
            assert_eq!(
                waited.err().map(|problem| problem.status),
                (!completes).then_some(StatusCode::TOO_EARLY)
            );
            assert_eq!(settled, completes);
        }
    }

    #[test]
    fn what_is_safe_goes_on_marked_unless_its_route_refuses() {
        let (_complete, handshake) = Handshake::begun();
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            let early = parts(method, None, Some(&handshake));
            assert!(matches!(Early::of(&early, true), Early::Marked));
            assert!(matches!(Early::of(&early, false), Early::Waits(_)));
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::CONNECT] {
            assert!(matches!(Early::of(&parts(method, None, Some(&handshake)), true), Early::Waits(_)));
        }
        let mut tunnel = parts(Method::GET, None, Some(&handshake));
        tunnel.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        assert!(matches!(Early::of(&tunnel, true), Early::Waits(_)));
        assert!(matches!(Early::of(&parts(Method::POST, None, None), false), Early::Settled));
    }

    #[test]
    fn for_what_a_proxy_took_early_there_is_no_handshake_to_wait_for() {
        for value in ["1", "0", "no"] {
            assert!(matches!(Early::of(&parts(Method::GET, Some(value), None), true), Early::Marked));
            assert!(matches!(Early::of(&parts(Method::GET, Some(value), None), false), Early::Refused));
            assert!(matches!(Early::of(&parts(Method::POST, Some(value), None), true), Early::Refused));
        }
    }
}
