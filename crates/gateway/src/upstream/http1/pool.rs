//! A worker's idle HTTP/1.1 connections.
//!
//! Nothing in HTTP/1.1 tells whether an instance that ends an idle connection had begun to read a request that
//! crossed its end on the way. So a connection is let go of before its instance does that, as far as one can
//! know: after the service's `connection_idle_seconds`, or sooner if the instance says how long it waits
//! (`Keep-Alive: timeout=5`). What remains of the race is seen to by `exchange`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use crate::upstream::connect::connect as connect_to;
use crate::upstream::idle::watch;
use crate::upstream::kept::Kept;
use crate::upstream::tls::Tls;
use crate::upstream::{Failure, Lifetimes, Target, Timeouts};

/// Idle connections kept to one address: as many as a service has requests under way at most, if
/// nothing else is said. With fewer, a load between the two opens and closes one for each request.
const IDLE: usize = 256;
/// What a request takes on its way at most, and so how much sooner than its instance a connection is let go
/// of that has said for how long it waits.
const ON_THE_WAY: Duration = Duration::from_secs(1);

thread_local! {
    static POOL: RefCell<Kept<Vec<Idle>>> = RefCell::default();
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

struct Idle {
    connection: Box<Connection>,
    until: Instant,
}

impl Idle {
    fn is_good(&mut self, now: Instant) -> bool {
        now < self.until && self.connection.is_good()
    }
}

/// Where a connection belongs between two exchanges, and for how long.
pub struct Place {
    pub address: String,
    pub tls: Option<Arc<Tls>>,
    pub lifetimes: Lifetimes,
}

/// An idle connection that is still good.
pub fn pooled(address: &str, tls: Option<&Arc<Tls>>, now: Instant) -> Option<Box<Connection>> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(address, tls)?;
        while let Some(mut last) = idle.pop() {
            if last.is_good(now) {
                return Some(last.connection);
            }
        }
        None
    })
}

/// Keep a connection on which nothing is under way, unless it is too old.
pub fn give_back(address: &str, tls: Option<&Arc<Tls>>, lifetimes: Lifetimes, connection: Box<Connection>) {
    let now = Instant::now();
    let said = connection.waits.map_or(lifetimes.idle, |waits| waits.saturating_sub(ON_THE_WAY));
    let until = connection.end.min(now + lifetimes.idle.min(said));
    if until <= now {
        return;
    }
    let idle = Idle { connection, until };
    POOL.with_borrow_mut(|pool| match pool.get_mut(address, tls) {
        Some(kept) if kept.len() < IDLE => kept.push(idle),
        Some(_) => {}
        None => pool.get_or_default(address, tls).push(idle),
    });
    watch(&WATCHED, sweep);
}

/// A new connection.
///
/// # Errors
/// `Connect` if there is none in time.
pub async fn connect(
    target: &Target<'_>,
    deadline: Instant,
    timeouts: &Timeouts,
) -> Result<Box<Connection>, Failure> {
    let until = deadline.min(Instant::now() + timeouts.connect);
    let stream = connect_to(target, until).await.map_err(|_| Failure::Connect)?;
    Ok(Connection::new(stream, timeouts.lifetimes.end()))
}

/// Let go of what is idle for too long, and of what instances have closed meanwhile, those that are gone for
/// good among them; whether anything is left.
fn sweep() -> bool {
    let now = Instant::now();
    POOL.with_borrow_mut(|pool| {
        pool.retain(|idle| {
            idle.retain_mut(|each| each.is_good(now));
            !idle.is_empty()
        });
        !pool.is_empty()
    })
}
