//! HTTP/2 (RFC 9113) with clients, by h2.
//!
//! hyper's server is a thin layer over h2, and has no call for what is said before an answer (103): here
//! that layer is ours. A request is a task of its own (`exchange.rs`), and so is a tunnel, whose side
//! towards the client is in `tunnelled.rs`.
//!
//! What a client makes the gateway do without asking for anything is bounded by h2, with the numbers
//! below: heads, streams, windows, resets. It ends a connection that goes beyond them.

mod beginnings;
mod exchange;
mod received;
mod tunnelled;

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;

use h2::server::Builder;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::{Client, Ending};
use crate::door::Patience;
use crate::io::{ClientIo, Keeping};
use crate::request_body::RequestBody;
use crate::respond::Body;
use crate::server::{CONNECTION_WINDOW, HEADER_BYTES, STREAM_WINDOW, STREAMS};

pub use received::Received;
pub use tunnelled::{Handover, Tunnelled};

/// What is kept of an answer for a client that has room for it and takes it later, for each stream: two parts, so that
/// one is there when the other has left. What a client never takes was read and is held for nothing.
const SEND_BUFFER: usize = 16 * 1024;
/// Requests that a client may give up before they were looked at (rapid reset, CVE-2023-44487): a
/// browser that leaves a page gives up a few in one packet.
const RESET_EARLY: usize = 20;
/// Requests that may be reset for their client's errors before its connection ends.
const RESET_FOR_ERRORS: usize = 100;
/// Serve a client's requests until it goes or has to go.
pub async fn serve<I, S>(client: &Arc<Client>, io: ClientIo<I>, service: S, patience: Patience)
where
    I: AsyncRead + AsyncWrite + Keeping + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let mut ending = None;
    let greeted = tokio::select! {
        greeted = builder().handshake(TokioIo::new(io)) => greeted,
        // Who has not even greeted by then is told nothing.
        _ = poll_fn(|cx| client.poll_ending(ending, cx)) => return,
    };
    let Ok(mut connection) = greeted else { return };
    loop {
        let next = tokio::select! {
            biased;
            next = connection.accept() => next,
            how = poll_fn(|cx| client.poll_ending(ending, cx)) => match how {
                Ending::Politely => {
                    connection.graceful_shutdown();
                    ending = Some(how);
                    continue;
                }
                Ending::Cut => return,
            },
        };
        // A client's protocol error ends its connection, which is all it needs to know.
        let Some(Ok((request, respond))) = next else { return };
        if client.is_ended_by_us() {
            // While an ended connection lingers, h2 still hands out what came before its end.
            continue;
        }
        tokio::spawn(exchange::serve(client, request, respond, &service, patience));
        beginnings::pace().await;
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_header_list_size(HEADER_BYTES as u32)
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_EARLY)
        .max_local_error_reset_streams(Some(RESET_FOR_ERRORS))
        .enable_connect_protocol();
    builder
}
