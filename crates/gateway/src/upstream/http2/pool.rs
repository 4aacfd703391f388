//! A worker's HTTP/2 connections: few, with many requests on each.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Lease};
use crate::upstream::connect::connect as connect_to;
use crate::upstream::idle::watch;
use crate::upstream::kept::Kept;
use crate::upstream::{Failure, Target, Timeouts};

/// Connections of a worker to one address. When all are full, requests wait on the one with the fewest. Four
/// hold more requests than the default concurrency limit of a service (256).
pub const CONNECTIONS: usize = 4;
/// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before the connection counts as dead. A
/// request times out before that; this keeps later ones off the same connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

thread_local! {
    static POOL: RefCell<Kept<Known>> = RefCell::default();
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// The connections to one address.
#[derive(Default)]
struct Known {
    connections: Vec<Connection>,
    /// Held while connecting; other requests wait for the new connection.
    connecting: Arc<Mutex<()>>,
    /// The idle timeout, as of the last connect.
    idle: Duration,
}

impl Known {
    /// Reserve a place on the connection with the fewest requests, if it has room or no more connections are
    /// allowed.
    fn lease(&mut self) -> Option<Lease> {
        self.let_go();
        let is_full = self.connections.len() >= CONNECTIONS;
        let least = self.connections.iter().min_by_key(|connection| connection.streams())?;
        (is_full || least.room() > 0).then(|| least.lease())
    }

    /// Drop connections that accept no more requests.
    fn let_go(&mut self) {
        let (now, idle) = (Instant::now(), self.idle);
        self.connections.retain(|connection| connection.is_good(now, idle));
    }
}

/// Reserve a place for a request on a connection, opening one if necessary.
///
/// # Errors
/// `Connect` if there is none in time.
pub async fn lease(target: &Target<'_>, deadline: Instant, timeouts: &Timeouts) -> Result<Lease, Failure> {
    let found = POOL.with_borrow_mut(|pool| pool.get_mut(target.address, target.tls).and_then(Known::lease));
    if let Some(lease) = found {
        return Ok(lease);
    }
    let until = deadline.min(Instant::now() + timeouts.connect);
    let connected = timeout_at(until, Box::pin(connect(target, until, timeouts))).await;
    connected.map_err(|_| Failure::Connect)?.map_err(|_| Failure::Connect)
}

/// Drop connections that have ended or were idle for too long, those of removed instances among them. Returns
/// whether any are left.
fn sweep() -> bool {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|known| {
            known.let_go();
            !known.connections.is_empty() || Arc::strong_count(&known.connecting) > 1
        });
        !pool.is_empty()
    })
}

async fn connect(target: &Target<'_>, until: Instant, timeouts: &Timeouts) -> Result<Lease, std::io::Error> {
    let connecting = POOL.with_borrow_mut(|pool| {
        let known = pool.get_or_default(target.address, target.tls);
        known.idle = timeouts.lifetimes.idle;
        Arc::clone(&known.connecting)
    });
    watch(&WATCHED, sweep);
    let _connecting = connecting.lock().await;
    let found = POOL.with_borrow_mut(|pool| pool.get_mut(target.address, target.tls).and_then(Known::lease));
    if let Some(lease) = found {
        return Ok(lease);
    }
    let stream = connect_to(target, until).await?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream.socket()).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let connection =
        Connection::new(stream, timeouts.lifetimes.end()).await.map_err(std::io::Error::other)?;
    let lease = connection.lease();
    POOL.with_borrow_mut(|pool| {
        pool.get_or_default(target.address, target.tls).connections.push(connection);
    });
    Ok(lease)
}
