//! HTTP/3 by quinn (QUIC) and h3.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::error::StreamError;
use h3::server::{RequestResolver, RequestStream};
use hyper::Response;
use hyper::header::{HeaderMap, HeaderValue};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    ZeroRttAccepted,
};
use tokio::time::timeout;

use super::steering::Ids;
use super::streams::{Accepted, Allowance, Receive, Send, Streams};
use super::{Arrived, Code, Gone};
use crate::Error;
use crate::client::Client;
use crate::config::Clients;
use crate::door::{Door, Patience, Place};
use crate::early_data::Handshake;
use crate::server::{CONNECTION_WINDOW, HEADER_BYTES, STREAM_WINDOW, STREAMS};
use crate::shared::{Phase, Shared};

/// Streams that aren't requests: control, and the encoder and the decoder of headers (RFC 9114,
/// section 6.2), and some that mean nothing, as browsers open them to keep servers tolerant.
const CONTROL_STREAMS: u32 = 8;
/// What is kept for a client until it has acknowledged it: 40 Mbit/s at 100 ms. It is what a client
/// that asks for much and reads nothing costs.
const SEND_WINDOW: u64 = 512 * 1024;
/// Pieces of a handshake that may arrive before those that belong in front of them. A client's
/// whole part of a handshake takes a few KiB, its certificates included.
const HANDSHAKE_BUFFER: usize = 16 * 1024;
/// Clients of one worker that may be in the middle of a handshake without having shown that they
/// receive at the address they write from. Beyond, they are asked to show it first (RFC 9000,
/// section 8.1.2), which costs them a round trip and the gateway no memory.
const UNPROVEN: usize = 64;
/// And clients that wait for a worker to look at them at all, with what they sent meanwhile.
const WAITING: usize = 1024;
const WAITING_BYTES_EACH: u64 = 8 * 1024;
const WAITING_BYTES: u64 = 2 * 1024 * 1024;
/// The head of a frame has at most this many bytes.
const FRAME_HEAD: usize = 16;
/// How long the end of connections may take to reach their clients when the gateway ends.
const FAREWELL: Duration = Duration::from_millis(200);

/// How QUIC is spoken, with certificates and protocols as `tls` has them.
///
/// # Errors
/// `tls` does not do for QUIC.
pub fn config(tls: rustls::ServerConfig, clients: &Clients) -> Result<ServerConfig, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Config(format!("HTTP/3: {error}"));
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| wrong(&error))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .max_incoming(WAITING)
        .incoming_buffer_size(WAITING_BYTES_EACH)
        .incoming_buffer_size_total(WAITING_BYTES);
    let patience = Patience::new(clients)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(CONTROL_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(HANDSHAKE_BUFFER)
        // No datagrams (RFC 9221): nothing here reads them.
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::try_from(patience.idle).map_err(|error| wrong(&error))?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Let clients in on a worker's socket until the gateway drains, and stay for those that are
/// connected until it ends.
///
/// # Errors
/// The socket can't be used.
pub async fn listen(
    shared: Arc<Shared>,
    door: Arc<Door>,
    socket: UdpSocket,
    config: ServerConfig,
    ids: Ids,
) -> io::Result<()> {
    let mut endpoint_config = EndpointConfig::default();
    endpoint_config.cid_generator(move || Box::new(ids.clone()));
    let endpoint = Endpoint::new(endpoint_config, Some(config), socket, Arc::new(TokioRuntime))?;
    let unproven = Arc::new(());
    let mut phase = shared.phase();
    loop {
        // The sender of phases lives as long as `shared`.
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = phase.wait_for(|phase| *phase == Phase::Ended) => None,
        };
        let Some(incoming) = incoming else { break };
        if shared.draining() {
            // Said at once, so that it comes by TCP, or to another gateway.
            incoming.refuse();
            continue;
        }
        if !incoming.remote_address_validated() && Arc::strong_count(&unproven) > UNPROVEN {
            // It may retry: it has not shown its address before.
            let _ = incoming.retry();
            continue;
        }
        let Some(place) = door.places.take(incoming.remote_address().ip()) else {
            shared.turned_away.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
            continue;
        };
        let held = (!incoming.remote_address_validated()).then(|| Arc::clone(&unproven));
        tokio::spawn(serve(Arc::clone(&shared), Arc::clone(&door), place, incoming, held));
    }
    endpoint.close(VarInt::from_u32(Code::NoError as u32), b"");
    let _ = timeout(FAREWELL, endpoint.wait_idle()).await;
    Ok(())
}

async fn serve(
    shared: Arc<Shared>,
    door: Arc<Door>,
    _place: Place,
    incoming: Incoming,
    unproven: Option<Arc<()>>,
) {
    let address = incoming.remote_address().ip();
    let Ok(address) = HeaderValue::from_str(&address.to_canonical().to_string()) else { return };
    let Ok(connecting) = incoming.accept() else { return };
    let (connection, handshake) = if door.early_data {
        // It succeeds for a server, always.
        let Ok((connection, complete)) = connecting.into_0rtt() else { return };
        let handshake = follow(connection.clone(), complete, door.patience.head, unproven);
        (connection, Some(handshake))
    } else {
        let Ok(Ok(connection)) = timeout(door.patience.head, connecting).await else { return };
        drop(unproven);
        (connection, None)
    };
    let accepted = Arc::default();
    let streams = Streams::new(connection.clone(), Arc::clone(&accepted));
    let mut builder = h3::server::builder();
    builder.max_field_section_size(HEADER_BYTES as u64);
    let Ok(Ok(inner)) = timeout(door.patience.head, builder.build(streams)).await else { return };
    let connection = Connection { inner, quic: connection, accepted, handshake };
    super::serve(shared, Arc::new(Client::new(address)), door.patience, connection).await;
}

/// Tell of the end of a handshake for which the connection didn't wait, and end the connection if it
/// isn't complete in time. The client counts as one of unproven address until then.
fn follow(
    connection: quinn::Connection,
    complete: ZeroRttAccepted,
    patience: Duration,
    unproven: Option<Arc<()>>,
) -> Handshake {
    let (tell, handshake) = Handshake::begun();
    tokio::spawn(async move {
        let ended = timeout(patience, complete).await.is_ok();
        drop(unproven);
        // What quinn awaited ends with the connection as well, whose reason is there by then.
        if ended && connection.close_reason().is_none() {
            tell.send_replace(true);
        } else {
            connection.close(VarInt::from_u32(Code::NoError as u32), b"");
        }
    });
    handshake
}

struct Connection {
    inner: h3::server::Connection<Streams, Bytes>,
    quic: quinn::Connection,
    accepted: Arc<Mutex<Option<Accepted>>>,
    /// Where requests are served before it is complete.
    handshake: Option<Handshake>,
}

impl super::Connection for Connection {
    type Exchange = Exchange;

    async fn accept(&mut self) -> Option<Exchange> {
        let resolver = self.inner.accept().await.ok().flatten()?;
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let handshake = self.handshake.clone().filter(|_| accepted.early);
        Some(Exchange { resolver, accepted, handshake })
    }

    async fn go_away(&mut self) {
        // Whom it can't be told is gone.
        let _ = self.inner.shutdown(0).await;
    }

    fn close(&mut self, code: Code) {
        self.quic.close(VarInt::from_u32(code as u32), b"");
    }
}

struct Exchange {
    resolver: RequestResolver<Streams, Bytes>,
    accepted: Accepted,
    handshake: Option<Handshake>,
}

impl super::Exchange for Exchange {
    type Receive = Parts;
    type Answer = Answer;

    async fn arrive(self) -> Result<Arrived<Parts, Answer>, Gone> {
        let (request, stream) = self.resolver.resolve_request().await.map_err(gone)?;
        let Accepted { allowance, settled, .. } = self.accepted;
        allowance.renew();
        let (send, receive) = stream.split();
        let parts = Parts { stream: receive, allowance, ended: false };
        let (request, answer) = (request.map(|()| parts), Answer(send));
        Ok(Arrived { request, answer, settled, handshake: self.handshake })
    }
}

/// The body of a request.
struct Parts {
    stream: RequestStream<Receive, Bytes>,
    allowance: Arc<Allowance>,
    /// h3 has said once that no more is to come.
    ended: bool,
}

impl super::Receive for Parts {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Gone>> {
        loop {
            let part = match ready!(self.stream.poll_recv_data(cx)) {
                Err(error) => return Poll::Ready(Err(gone(error))),
                Ok(part) => part.map(|mut part| part.copy_to_bytes(part.remaining())),
            };
            if let Some(part) = part {
                self.ended = false;
                self.allowance.add(part.len() + FRAME_HEAD);
                return Poll::Ready(Ok(Some(part)));
            }
            // An empty part is an end to h3 too: only one that lasts is the end.
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            self.ended = true;
        }
    }

    fn poll_trailer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Gone>> {
        self.stream.poll_recv_trailers(cx).map_err(gone)
    }
}

struct Answer(RequestStream<Send, Bytes>);

impl super::Answer for Answer {
    async fn head(&mut self, head: Response<()>) -> Result<(), Gone> {
        self.0.send_response(head).await.map_err(gone)
    }

    async fn part(&mut self, part: Bytes) -> Result<(), Gone> {
        self.0.send_data(part).await.map_err(gone)
    }

    async fn trailer(&mut self, trailer: HeaderMap) -> Result<(), Gone> {
        self.0.send_trailers(trailer).await.map_err(gone)
    }

    async fn finish(&mut self) -> Result<(), Gone> {
        self.0.finish().await.map_err(gone)
    }

    fn abort(&mut self, code: Code) {
        self.0.stop_stream((code as u64).into());
    }
}

fn gone(_: StreamError) -> Gone {
    Gone
}
