//! Idle connections in HTTP/1.1, which each worker keeps for itself.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::connection::Connection;
use crate::upstream::connect::connect as connect_to;
use crate::upstream::kept::Kept;
use crate::upstream::tls::Tls;
use crate::upstream::{Failure, Target};

/// Idle connections kept to one address: as many as a service has requests under way at most, if
/// nothing else is said. With fewer, a load between the two opens and closes one for each request.
const IDLE: usize = 256;

thread_local! {
    #[expect(clippy::vec_box, reason = "connections are large, and change hands with each exchange")]
    static POOL: RefCell<Kept<Vec<Box<Connection>>>> = RefCell::default();
}

/// An idle connection that is still good.
pub fn pooled(address: &str, tls: Option<&Arc<Tls>>) -> Option<Box<Connection>> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(address, tls)?;
        while let Some(mut connection) = idle.pop() {
            if connection.is_good() {
                return Some(connection);
            }
        }
        None
    })
}

/// Keep a connection on which nothing is under way.
pub fn give_back(address: &str, tls: Option<&Arc<Tls>>, connection: Box<Connection>) {
    POOL.with_borrow_mut(|pool| match pool.get_mut(address, tls) {
        Some(idle) if idle.len() < IDLE => idle.push(connection),
        Some(_) => {}
        None => pool.get_or_default(address, tls).push(connection),
    });
}

/// A new connection.
///
/// # Errors
/// `Connect` if there is none in time.
pub async fn connect(
    target: &Target<'_>,
    deadline: Instant,
    timeout: Duration,
) -> Result<Box<Connection>, Failure> {
    sweep();
    let until = deadline.min(Instant::now() + timeout);
    let stream = connect_to(target, until).await.map_err(|_| Failure::Connect)?;
    Ok(Connection::new(stream))
}

/// Let go of what instances have closed meanwhile, those that are gone for good among them.
fn sweep() {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|idle| {
            idle.retain_mut(|connection| connection.is_good());
            !idle.is_empty()
        });
    });
}
