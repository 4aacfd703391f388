//! Requests in early data (0-RTT), which might be somebody's recording of them, and 425 (RFC 8470).
//!
//! Early data comes over QUIC, and over TCP (`accept.rs`, `stream.rs`); what follows holds for both.
//!
//! What a client sends along with the first flight of a handshake is only known to be its own, and to be
//! new, once the handshake is complete. This gateway takes early data once at most, since it forgets a
//! session with its first resumption (`sessions.rs`); but a client may be made to send the same request
//! again, to another gateway or after a broken connection, so what changes something is not begun with
//! before the handshake is complete. It waits here, in place of a 425: a client loses nothing by it that it
//! would not without early data, where a 425 costs a round trip more, and not every client sends again.
//!
//! Requests of safe methods go on at once, marked (`Early-Data: 1`), so that a service which knows better
//! may answer 425, which is passed on. A proxy before this gateway may have taken early data as well and
//! marks what it did; to its handshake nobody here can wait, so there it is 425 for what isn't safe.

mod accept;
mod stream;

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use tokio::sync::watch;

use crate::respond::Problem;

pub use accept::{Accepted, accept};

/// Its only value is 1; any other means the same (RFC 8470, section 5.1).
pub const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// The end of a client's handshake, with the requests that came before it.
#[derive(Clone)]
pub struct Handshake(watch::Receiver<bool>);

impl Handshake {
    /// One that is under way, and who says when it is complete; it has failed if that is dropped before.
    pub fn begun() -> (watch::Sender<bool>, Self) {
        let (complete, handshake) = watch::channel(false);
        (complete, Self(handshake))
    }

    pub fn is_complete(&self) -> bool {
        *self.0.borrow()
    }

    /// Wait for its end, and say whether it is complete then.
    async fn end(mut self) -> bool {
        self.0.wait_for(|complete| *complete).await.is_ok()
    }
}

/// What became of requests that might be replays.
#[derive(Default)]
pub struct Counts {
    pub marked: AtomicU64,
    pub waited: AtomicU64,
    pub refused: AtomicU64,
}

/// What is to become of a request that may be a replay; `allowed`, if its route has nothing against it.
pub enum Early<'a> {
    /// It is none.
    Settled,
    /// It goes on, marked.
    Marked,
    /// It is one if this does not end well.
    Waits(&'a Handshake),
    Refused,
}

impl<'a> Early<'a> {
    pub fn of(parts: &'a Parts, allowed: bool) -> Self {
        let told = parts.headers.contains_key(EARLY_DATA);
        // A tunnel carries what nobody here can tell to be safe, in whichever protocol it is asked for.
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

/// Let a request go on, at once or after the handshake, and say whether as one that might be a replay.
///
/// # Errors
/// 425: it is not let pass as such, and there is no handshake to wait for, or it failed.
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
