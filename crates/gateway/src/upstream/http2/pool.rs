//! Connections that each worker keeps for itself: few, and many requests on each.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Lease};
use crate::upstream::connect::connect as connect_to;
use crate::upstream::kept::Kept;
use crate::upstream::{Failure, Target};

/// Connections of a worker to one address. Beyond what they take together, requests wait in the
/// one with the fewest: four hold more than the requests that a service has under way at most, if
/// nothing else is said (256).
pub const CONNECTIONS: usize = 4;
/// An instance that acknowledges nothing for so long is gone, though nobody has said so. A request of
/// its own runs out of time before that; the next ones must not find the same connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

thread_local! {
    static POOL: RefCell<Kept<Known>> = RefCell::default();
}

/// What there is to an address.
#[derive(Default)]
struct Known {
    connections: Vec<Connection>,
    /// Held by who connects: the others wait for the connection that it brings.
    connecting: Arc<Mutex<()>>,
}

impl Known {
    /// A place on the connection with the fewest requests, if one has room, or there may be no more.
    fn lease(&mut self) -> Option<Lease> {
        self.connections.retain(|connection| !connection.has_ended());
        let is_full = self.connections.len() >= CONNECTIONS;
        let least = self.connections.iter().min_by_key(|connection| connection.streams())?;
        (is_full || least.room() > 0).then(|| least.lease())
    }
}

/// A place for a request on a connection to an instance.
///
/// # Errors
/// `Connect` if there is none in time.
pub async fn lease(target: &Target<'_>, deadline: Instant, timeout: Duration) -> Result<Lease, Failure> {
    let found = POOL.with_borrow_mut(|pool| pool.get_mut(target.address, target.tls).and_then(Known::lease));
    if let Some(lease) = found {
        return Ok(lease);
    }
    let until = deadline.min(Instant::now() + timeout);
    let connected = timeout_at(until, Box::pin(connect(target, until))).await;
    connected.map_err(|_| Failure::Connect)?.map_err(|_| Failure::Connect)
}

async fn connect(target: &Target<'_>, until: Instant) -> Result<Lease, std::io::Error> {
    let connecting = POOL.with_borrow_mut(|pool| {
        // Those that are gone for good are let go of, whoever they were.
        pool.retain(|known| {
            known.connections.retain(|connection| !connection.has_ended());
            !known.connections.is_empty() || Arc::strong_count(&known.connecting) > 1
        });
        Arc::clone(&pool.get_or_default(target.address, target.tls).connecting)
    });
    let _connecting = connecting.lock().await;
    let found = POOL.with_borrow_mut(|pool| pool.get_mut(target.address, target.tls).and_then(Known::lease));
    if let Some(lease) = found {
        return Ok(lease);
    }
    let stream = connect_to(target, until).await?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream.socket()).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let connection = Connection::new(stream).await.map_err(std::io::Error::other)?;
    let lease = connection.lease();
    POOL.with_borrow_mut(|pool| {
        pool.get_or_default(target.address, target.tls).connections.push(connection);
    });
    Ok(lease)
}
