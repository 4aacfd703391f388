//! HTTP/3 on quinn (QUIC) and h3.

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

/// Unidirectional streams: the control stream, the QPACK encoder and decoder streams (RFC 9114, section 6.2),
/// and a few of reserved types, which browsers open to keep servers tolerant.
const CONTROL_STREAMS: u32 = 8;
/// Unacknowledged bytes buffered per client: enough for 40 Mbit/s at 100 ms. This is the
/// memory that a client costs if it requests much and reads nothing.
const SEND_WINDOW: u64 = 512 * 1024;
/// Handshake data that may be buffered out of order. A client's side of a handshake takes a few KiB,
/// certificates included.
const HANDSHAKE_BUFFER: usize = 16 * 1024;
/// Handshakes per worker with clients that have not validated their address. Above this limit, clients have
/// to validate it first (Retry, RFC 9000, section 8.1.2), which costs them a round trip and the gateway no
/// memory.
const UNPROVEN: usize = 64;
/// Connection attempts that wait to be accepted, and the bytes buffered for them.
const WAITING: usize = 1024;
const WAITING_BYTES_EACH: u64 = 8 * 1024;
const WAITING_BYTES: u64 = 2 * 1024 * 1024;
/// The maximum size of a frame header.
const FRAME_HEAD: usize = 16;
/// How long to wait for connections to close when the gateway ends.
const FAREWELL: Duration = Duration::from_millis(200);

/// The QUIC configuration, with certificates and ALPN protocols from `tls`.
///
/// # Errors
/// `tls` can't be used for QUIC.
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
        // Datagrams (RFC 9221) are disabled: nothing reads them.
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::try_from(patience.idle).map_err(|error| wrong(&error))?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Accept connections on a worker's socket until the gateway drains, and serve existing ones until it ends.
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
        // `shared` keeps the sender alive, so `wait_for` never fails.
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = phase.wait_for(|phase| *phase == Phase::Ended) => None,
        };
        let Some(incoming) = incoming else { break };
        if shared.draining() {
            // Refused at once, so that the client tries TCP or another gateway.
            incoming.refuse();
            continue;
        }
        if !incoming.remote_address_validated() && Arc::strong_count(&unproven) > UNPROVEN {
            // Can't fail: the address is not validated yet, so a Retry is allowed.
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
        // Always succeeds on the server side.
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

/// Report the end of the handshake of a connection that is already served, and close the connection if it
/// does not complete in time. Until then the client counts as unvalidated.
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
        // quinn also resolves this when the connection is lost; the close reason is set by then.
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
    /// Set if requests are served before the handshake is complete.
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
        // If this fails, the client is gone.
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
    /// h3 has reported the end once.
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
            // h3 also returns `None` for an empty DATA frame; only two in a row mean the end.
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
