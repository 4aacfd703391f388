//! Idle connections in HTTP/1.1, which each worker keeps for itself.

use std::cell::RefCell;

use rustc_hash::FxHashMap;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout_at};

use super::connection::Connection;
use crate::upstream::Failure;

/// Idle connections kept to one address: as many as a service has requests under way at most, if
/// nothing else is said. With fewer, a load between the two opens and closes one for each request.
const IDLE: usize = 256;

thread_local! {
    #[expect(clippy::vec_box, reason = "connections are large, and change hands with each exchange")]
    static POOL: RefCell<FxHashMap<String, Vec<Box<Connection>>>> = RefCell::default();
}

/// An idle connection that is still good.
pub fn pooled(address: &str) -> Option<Box<Connection>> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(address)?;
        while let Some(connection) = idle.pop() {
            if connection.is_good() {
                return Some(connection);
            }
        }
        None
    })
}

/// Keep a connection on which nothing is under way.
pub fn give_back(address: &str, connection: Box<Connection>) {
    POOL.with_borrow_mut(|pool| match pool.get_mut(address) {
        Some(idle) if idle.len() < IDLE => idle.push(connection),
        Some(_) => {}
        None => {
            pool.insert(address.to_owned(), vec![connection]);
        }
    });
}

/// A new connection.
///
/// # Errors
/// `Connect` if there is none in time.
pub async fn connect(
    address: &str,
    deadline: Instant,
    timeout: Duration,
) -> Result<Box<Connection>, Failure> {
    sweep();
    let until = deadline.min(Instant::now() + timeout);
    let stream = timeout_at(until, TcpStream::connect(address))
        .await
        .map_err(|_| Failure::Connect)?
        .map_err(|_| Failure::Connect)?;
    // Without this a small request waits for the other side's acknowledgement.
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    Ok(Connection::new(stream))
}

/// Let go of what instances have closed meanwhile, those that are gone for good among them.
fn sweep() {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain(|connection| connection.is_good());
            !idle.is_empty()
        });
    });
}
