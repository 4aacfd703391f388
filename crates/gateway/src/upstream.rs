//! Connections to instances, kept by each worker for itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Idle connections kept to one address.
const IDLE: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

thread_local! {
    static POOL: RefCell<HashMap<String, Vec<SendRequest<Full<Bytes>>>>> = RefCell::default();
}

/// What went wrong with one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request never reached the instance.
    Connect,
    /// It may have reached it; nobody knows what became of it.
    Unknown,
}

/// Send one request to `address`. A connection goes back to the pool when its answer was read.
pub async fn send(
    address: &str,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let mut sender = match pooled(address) {
        Some(sender) => sender,
        None => connect(address).await?,
    };
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, Lease { address: address.to_owned(), sender: Some(sender) })),
        Err(mut error) => match error.take_message() {
            // An idle connection that the instance had closed: nothing was sent, so any request
            // may be sent again on a new one.
            Some(request) => {
                let mut sender = connect(address).await?;
                let response = sender.send_request(request).await.map_err(|_| Failure::Unknown)?;
                Ok((response, Lease { address: address.to_owned(), sender: Some(sender) }))
            }
            None => Err(Failure::Unknown),
        },
    }
}

/// Gives the connection back when the response's body is done with.
pub struct Lease {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        if sender.is_closed() {
            return;
        }
        POOL.with_borrow_mut(|pool| {
            let idle = pool.entry(std::mem::take(&mut self.address)).or_default();
            if idle.len() < IDLE {
                idle.push(sender);
            }
        });
    }
}

fn pooled(address: &str) -> Option<SendRequest<Full<Bytes>>> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(address)?;
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    })
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| Failure::Connect)?
        .map_err(|_| Failure::Connect)?;
    // Without this a small request waits for the other side's acknowledgement.
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
    tokio::task::spawn_local(async move {
        // The outcome reaches whoever uses the sender; there is nothing to add here.
        let _ = connection.await;
    });
    Ok(sender)
}
