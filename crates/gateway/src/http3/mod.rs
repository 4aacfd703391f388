//! HTTP/3 (RFC 9114) with clients, over QUIC.
//!
//! The three traits below define what a QUIC library has to provide, at the level of requests and responses.
//! `quinn.rs` and `streams.rs` implement them with quinn and h3; nothing else depends on these. h3 is young:
//! this allows replacing it by another library.
//!
//! Each worker has a UDP socket of its own, on the port of its TCP socket, and serves the connections that
//! began there with its own upstream connections. A datagram is routed to its worker by the connection id,
//! not by the sender's address (`steering.rs`), so a client that changes its address, such as a phone that
//! leaves a Wi-Fi network, stays with its worker. A single endpoint for all workers would need no steering,
//! but would put one receiving thread and a cross-thread wake-up per datagram on the path of every request.
//!
//! Three limits bound what a client can cause without requesting anything: the windows and stream counts that
//! QUIC grants (`quinn.rs`), the bytes buffered before their purpose is known (`streams.rs`), and the number
//! of cancelled requests (`GIVEN_UP`).

mod exchange;
mod quinn;
mod received;
mod steering;
mod streams;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use tokio::task::JoinSet;

use crate::client::{Client, Ending};
use crate::door::Patience;
use crate::early_data::Handshake;
use crate::shared::{Phase, Shared};

pub use quinn::{config, listen};
pub use steering::{Ids, bind};

/// How many more requests a client may cancel than it completes. Somebody who skips through a shop cancels a
/// few dozen in a row; a rapid-reset attack (CVE-2023-44487) exceeds the limit at once.
const GIVEN_UP: u64 = 100;

/// Error codes of RFC 9114, section 8.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NoError = 0x100,
    InternalError = 0x102,
    ExcessiveLoad = 0x107,
    RequestCancelled = 0x10c,
    MessageError = 0x10e,
}

/// A client's connection, implemented by an adapter for a QUIC library.
pub trait Connection: Send + 'static {
    type Exchange: Exchange;

    /// The next request stream, or `None` once the client is gone. Cancel safe.
    fn accept(&mut self) -> impl Future<Output = Option<Self::Exchange>> + Send;

    /// Send GOAWAY. Requests that arrive later are rejected in a way that allows the client to retry them
    /// elsewhere.
    fn go_away(&mut self) -> impl Future<Output = ()> + Send;

    /// Close the connection immediately. Responses must have been delivered before; the rest is lost.
    fn close(&mut self, code: Code);
}

/// A request stream whose head has not been read yet.
pub trait Exchange: Send + 'static {
    type Receive: Receive;
    type Answer: Answer;

    /// Read the head.
    fn arrive(self) -> impl Future<Output = Result<Arrived<Self::Receive, Self::Answer>, Gone>> + Send;
}

/// A request whose head has been read.
pub struct Arrived<R, A> {
    pub request: Request<R>,
    pub answer: A,
    pub settled: Settled,
    /// Set if the request came in early data: it may be a replay until this handshake is complete.
    pub handshake: Option<Handshake>,
}

/// Resolves to `true` when the client has acknowledged the complete response, to `false` when it no longer
/// wants it.
pub type Settled = Pin<Box<dyn Future<Output = bool> + Send>>;

/// The rest of a request: parts, then an optional trailer section.
pub trait Receive: Send + Unpin + 'static {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Gone>>;
    fn poll_trailer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Gone>>;
}

/// The response to a request.
pub trait Answer: Send + 'static {
    fn head(&mut self, head: Response<()>) -> impl Future<Output = Result<(), Gone>> + Send;
    fn part(&mut self, part: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;
    fn trailer(&mut self, trailer: HeaderMap) -> impl Future<Output = Result<(), Gone>> + Send;
    fn finish(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Reset the stream, so that the client can't mistake the response for a complete one.
    fn abort(&mut self, code: Code);
}

/// The client cancelled the request, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client gave up the request")]
pub struct Gone;

/// Completed and cancelled requests of a connection.
#[derive(Default)]
struct Load {
    answered: AtomicU64,
    given_up: AtomicU64,
}

impl Load {
    fn is_excessive(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) > GIVEN_UP + self.answered.load(Ordering::Relaxed)
    }
}

/// Serve a connection until it ends or the gateway drains.
pub async fn serve<C: Connection>(
    shared: Arc<Shared>,
    client: Arc<Client>,
    patience: Patience,
    mut connection: C,
) {
    let _connected = shared.connected();
    let watching = tokio::spawn(Arc::clone(&client).watch(patience, shared.phase(), Phase::Draining));
    let load = Arc::new(Load::default());
    let mut exchanges = JoinSet::new();
    let mut ending = None;
    let code = loop {
        tokio::select! {
            next = connection.accept() => {
                let Some(next) = next else { break Code::NoError };
                let (shared, client, load) = (Arc::clone(&shared), Arc::clone(&client), Arc::clone(&load));
                exchanges.spawn(exchange::serve(shared, client, patience, load, next));
            }
            Some(_) = exchanges.join_next() => {
                if load.is_excessive() {
                    break Code::ExcessiveLoad;
                }
            }
            how = poll_fn(|cx| client.poll_ending(ending, cx)) => match how {
                Ending::Politely => {
                    connection.go_away().await;
                    ending = Some(how);
                }
                Ending::Cut => break Code::NoError,
            },
        }
        if ending.is_some() && exchanges.is_empty() {
            break Code::NoError;
        }
    };
    connection.close(code);
    watching.abort();
}
