//! A worker's idle HTTP/1.1 connections.
//!
//! If a request crosses with the instance's close of an idle connection, HTTP/1.1 gives no indication whether
//! it was read. The pool therefore tries to close connections before the instance does: after the service's
//! `connection_idle_seconds`, or earlier if the instance announces its timeout (`Keep-Alive: timeout=5`).
//! `exchange` handles the remaining race.

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

/// Idle connections per address: the default concurrency limit of a service. With fewer, a load between the
/// two would open and close a connection for each request.
const IDLE: usize = 256;
/// The maximum time that a request needs to reach the instance; connections are closed this much before an
/// announced keep-alive timeout.
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

/// Where to return a connection after an exchange, and for how long.
pub struct Place {
    pub address: String,
    pub tls: Option<Arc<Tls>>,
    pub lifetimes: Lifetimes,
}

/// Take a usable idle connection.
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

/// Return an idle connection to the pool, unless it is too old.
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

/// Open a connection.
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

/// Close connections that were idle for too long, and drop those that instances have closed, those of removed
/// instances among them. Returns whether any are left.
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
