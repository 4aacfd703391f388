//! HTTP/3 (RFC 9114) with clients, over QUIC.
//!
//! What a QUIC library has to provide are the three traits below, at the level of requests and
//! answers; `quinn.rs` and `streams.rs` do it with quinn and h3, and nothing else knows of them.
//! h3 is young: another library comes in by another such pair.
//!
//! Each worker has a UDP socket of its own, on the port of its TCP socket, and serves the
//! connections that began there with its own connections to instances. A datagram finds its worker
//! by the connection id that it names, not by its sender's address (`steering.rs`), so that a
//! client that changes its address, as a phone does on its way out of the house, stays where it is.
//! One endpoint for all workers would need no steering, and would put one thread's receiving, and a
//! wake-up from one thread to another for each datagram, on the way of every request.
//!
//! What a client makes the gateway do without asking for anything is bounded three times: by the
//! windows and numbers of streams that QUIC grants (`quinn.rs`), by what may be buffered before it
//! is known what it is (`streams.rs`), and by how many requests may be given up (`GIVEN_UP` here).

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

/// A client may give up this many more requests than it waits for. A reader who skips through a
/// shop gives up a few dozen in a row; whoever opens and resets streams as fast as it can (rapid
/// reset, CVE-2023-44487) is over it at once.
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

/// A client's connection, as a QUIC library's adapter presents it.
pub trait Connection: Send + 'static {
    type Exchange: Exchange;

    /// The next stream of a request; nothing once the client is gone. May be dropped and called
    /// again.
    fn accept(&mut self) -> impl Future<Output = Option<Self::Exchange>> + Send;

    /// Tell the client that no further request will be served (GOAWAY); later ones are rejected in
    /// a way that says that they may be sent elsewhere.
    fn go_away(&mut self) -> impl Future<Output = ()> + Send;

    /// End the connection now. Of what was answered, nothing may be under way any more.
    fn close(&mut self, code: Code);
}

/// A request that begins to arrive.
pub trait Exchange: Send + 'static {
    type Receive: Receive;
    type Answer: Answer;

    /// Read its head.
    fn arrive(self) -> impl Future<Output = Result<Arrived<Self::Receive, Self::Answer>, Gone>> + Send;
}

/// A request whose head is here.
pub struct Arrived<R, A> {
    pub request: Request<R>,
    pub answer: A,
    pub settled: Settled,
    /// What has to be complete before it is known that the request is no replay, if it came before.
    pub handshake: Option<Handshake>,
}

/// Resolves when the client has all of a finished answer (`true`), or does not want it any more.
pub type Settled = Pin<Box<dyn Future<Output = bool> + Send>>;

/// The rest of a request: parts, then a trailer if there is one.
pub trait Receive: Send + Unpin + 'static {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Gone>>;
    fn poll_trailer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Gone>>;
}

/// The way back to the client.
pub trait Answer: Send + 'static {
    fn head(&mut self, head: Response<()>) -> impl Future<Output = Result<(), Gone>> + Send;
    fn part(&mut self, part: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;
    fn trailer(&mut self, trailer: HeaderMap) -> impl Future<Output = Result<(), Gone>> + Send;
    fn finish(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Break the answer off, so that nobody takes it for a whole one.
    fn abort(&mut self, code: Code);
}

/// The client, or its interest, is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client gave up the request")]
pub struct Gone;

/// How many requests of a connection came to an end, and how many were given up before.
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

/// Serve a connection until its end, or the gateway's.
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
