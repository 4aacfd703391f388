//! HTTP/2 (RFC 9113) with clients, on h2.
//!
//! hyper's server is a thin layer over h2 and can't send informational responses (103), so this module
//! replaces it. Each request is a task of its own (`exchange.rs`), and so is each tunnel, whose client side
//! is in `tunnelled.rs`.
//!
//! h2 limits what a client can cause without requesting anything: header sizes, streams, windows and resets,
//! with the numbers below. It closes connections that exceed them.

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

/// Response bytes buffered per stream while the client is slow: two parts, so that the next one is ready when
/// the first has been sent. If the client never accepts them, they were read in vain.
const SEND_BUFFER: usize = 16 * 1024;
/// Pending streams that a client may reset before they are accepted (rapid reset, CVE-2023-44487). A browser
/// that leaves a page resets a few in one packet.
const RESET_EARLY: usize = 20;
/// Streams reset because of client errors before the connection is closed.
const RESET_FOR_ERRORS: usize = 100;
/// Serve a client's requests until the connection ends.
pub async fn serve<I, S>(client: &Arc<Client>, io: ClientIo<I>, service: S, patience: Patience)
where
    I: AsyncRead + AsyncWrite + Keeping + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let mut ending = None;
    let greeted = tokio::select! {
        greeted = builder().handshake(TokioIo::new(io)) => greeted,
        // No GOAWAY for a client that has not completed the HTTP/2 handshake.
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
        // On a protocol error, h2 has closed the connection; nothing else needs to be done.
        let Some(Ok((request, respond))) = next else { return };
        if client.is_ended_by_us() {
            // While a closed connection lingers, h2 still yields requests received before.
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
