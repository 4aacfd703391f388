//! Tunnels: connections that are upgraded from HTTP, such as WebSocket (RFC 6455).
//!
//! A request asks for one by `Upgrade` in HTTP/1.1 or by the extended CONNECT of HTTP/2 (RFC 8441), and is
//! checked and limited like any other. The instance is always asked in HTTP/1.1. If it agrees, bytes are
//! copied in both directions until both sides have closed, or neither has sent any for the idle time. While a
//! side takes nothing, the other isn't read: each direction buffers at most one read, and nothing while it is
//! idle, since reads go to a buffer of the worker first.

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use h2::ext::Protocol;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::headers::text;
use crate::http1::Head;
use crate::http2::Handover;
use crate::respond::{Body, Problem};
use crate::shared::Connected;
use crate::timer::Timer;
use crate::upstream::{Reader, Writer};

/// Size of a read, in either direction: the maximum of a TLS record.
const READ: usize = 16 * 1024;
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
/// The GUID by which a server proves that it understood the handshake (RFC 6455, section 1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// A client's request to switch protocols.
pub struct Upgrade {
    pub protocol: HeaderValue,
    /// The WebSocket key for the instance, if the client asked over HTTP/2, which has none.
    pub key: Option<HeaderValue>,
    client: Client,
    idle: Duration,
}

/// The client's side, available once the answer has been sent.
#[derive(Clone)]
enum Client {
    Http1(OnUpgrade),
    Http2(Handover),
}

/// The method for routing: an extended CONNECT counts as the GET of HTTP/1.1.
pub fn method(parts: &Parts) -> &Method {
    if parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_some() {
        return &Method::GET;
    }
    &parts.method
}

/// Whether a request asks for a tunnel only, as in HTTP/2. An HTTP/1.1 request may be answered without
/// upgrading; for an extended CONNECT a 2xx would mean that there is a tunnel (RFC 8441, section 4).
pub fn is_all_that_is_asked(parts: &Parts) -> bool {
    parts.method == Method::CONNECT
}

/// Check the answer to a request that asks for a tunnel only.
///
/// # Errors
/// 502 if the service answered with success but didn't switch protocols.
pub fn or_refused(answer: Response<Body>) -> Result<Response<Body>, Problem> {
    if answer.status().is_success() && !matches!(answer.body(), Body::Tunnel(_)) {
        let detail = "the service did not go over to the protocol that was asked for";
        return Err(Problem::new(StatusCode::BAD_GATEWAY, detail));
    }
    Ok(answer)
}

/// The answer if a protocol isn't offered (RFC 9220, section 3).
pub fn not_offered() -> Problem {
    Problem::new(StatusCode::NOT_IMPLEMENTED, "the protocol that is asked for is not offered here")
}

impl Upgrade {
    /// The upgrade that a request asks for, if it is in `offered`; `idle` is the tunnel's idle timeout. An
    /// HTTP/1.1 request with a body is served without its upgrade.
    pub fn asked(parts: &Parts, has_body: bool, offered: &[String], idle: Duration) -> Option<Self> {
        let offers = |asked: &str| offered.iter().any(|each| each.eq_ignore_ascii_case(asked));
        if let Some(protocol) = parts.extensions.get::<Protocol>() {
            // WebSocket is the only protocol known to be the same in HTTP/1.1.
            let asked = protocol.as_str();
            let known = asked.eq_ignore_ascii_case("websocket") && offers(asked);
            let client = Client::Http2(parts.extensions.get::<Handover>()?.clone());
            let protocol = HeaderValue::from_static("websocket");
            return known.then(|| Self { protocol, key: key(), client, idle });
        }
        let client = Client::Http1(parts.extensions.get::<OnUpgrade>()?.clone());
        let named = parts.headers.get_all(header::CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        });
        let asked = text(&parts.headers, header::UPGRADE);
        let protocol = parts.headers.get(header::UPGRADE)?.clone();
        (named && !has_body && offers(asked)).then_some(Self { protocol, key: None, client, idle })
    }

    /// Whether the instance switches to the requested protocol.
    pub fn is_granted(&self, head: &Head) -> bool {
        let same = |granted: &HeaderValue| granted.as_bytes().eq_ignore_ascii_case(self.protocol.as_bytes());
        let proved = |key: &HeaderValue| text(&head.headers, SEC_WEBSOCKET_ACCEPT) == accept(key);
        head.status == StatusCode::SWITCHING_PROTOCOLS
            && head.upgrade.as_ref().is_some_and(same)
            && self.key.as_ref().is_none_or(proved)
    }

    /// The answer that turns the client's connection into a tunnel, to be opened once it is sent.
    pub fn tunnel(
        &self,
        mut headers: HeaderMap,
        reader: Reader,
        writer: Writer,
        read: BytesMut,
    ) -> Response<Body> {
        let (client, idle) = (self.client.clone(), self.idle);
        let status = if self.key.is_some() {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            StatusCode::OK
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, self.protocol.clone());
            StatusCode::SWITCHING_PROTOCOLS
        };
        let instance = tokio::io::join(reader, writer);
        let tunnel = Tunnel { client, instance, read, idle, kept: Vec::new() };
        let mut response = Response::new(Body::Tunnel(Some(Box::new(tunnel))));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// 16 random bytes (RFC 6455, section 4.1); `None` if the system has no randomness.
fn key() -> Option<HeaderValue> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    HeaderValue::from_str(&STANDARD.encode(bytes)).ok()
}

fn accept(key: &HeaderValue) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(ACCEPT_SUFFIX);
    STANDARD.encode(context.finish())
}

/// Two connections to be joined.
pub struct Tunnel {
    client: Client,
    instance: tokio::io::Join<Reader, Writer>,
    /// Bytes that the instance sent after its head.
    read: BytesMut,
    idle: Duration,
    kept: Vec<Box<dyn Any + Send>>,
}

impl Tunnel {
    /// Hold `kept` until the tunnel ends.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        self.kept.push(Box::new(kept));
    }

    /// Start copying once the answer is sent. A drain waits for the tunnel as for a client connection.
    pub fn open(self, connected: Connected) {
        let Self { client, mut instance, read, idle, kept } = self;
        tokio::spawn(async move {
            // The client may have disconnected already, and either side may break off the tunnel.
            match client {
                Client::Http1(client) => {
                    if let Ok(client) = client.await {
                        let _ = join(&mut TokioIo::new(client), &mut instance, read, idle).await;
                    }
                }
                Client::Http2(client) => {
                    if let Some(mut client) = client.take().await {
                        let _ = join(&mut client, &mut instance, read, idle).await;
                    }
                }
            }
            drop((kept, connected));
        });
    }
}

/// Copy bytes in both directions until both sides have closed, or neither has sent any for `idle`.
///
/// # Errors
/// When a side fails, or `TimedOut`.
async fn join(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    instance: &mut (impl AsyncRead + AsyncWrite + Unpin),
    read: BytesMut,
    idle: Duration,
) -> io::Result<()> {
    let (mut up, mut down) = (Flow::new(BytesMut::new()), Flow::new(read));
    let (mut timer, mut moved) = (Timer::default(), Instant::now());
    poll_fn(|cx| {
        let before = up.moves + down.moves;
        let ended = (up.poll(client, instance, cx)?, down.poll(instance, client, cx)?);
        if ended.0.is_ready() && ended.1.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if up.moves + down.moves > before {
            moved = Instant::now();
        }
        timer.poll_late(moved + idle, cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

/// One direction.
struct Flow {
    /// Bytes read but not yet written.
    unwritten: BytesMut,
    unflushed: bool,
    ended: bool,
    moves: u64,
}

impl Flow {
    fn new(unwritten: BytesMut) -> Self {
        Self { unwritten, unflushed: false, ended: false, moves: 0 }
    }

    /// Copy until there is nothing to read or the writer is blocked; ready at the end.
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.unwritten.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.unwritten))?;
                self.wrote(written)?;
                self.unwritten.advance(written);
            }
            if self.unwritten.capacity() > 0 {
                self.unwritten = BytesMut::new();
            }
            if self.ended {
                return Pin::new(&mut *to).poll_shutdown(cx);
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
                let mut part = buffer.filled();
                self.ended = part.is_empty();
                self.moves += 1;
                while !part.is_empty()
                    && let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, part)?
                {
                    self.wrote(written)?;
                    part = &part[written..];
                }
                self.unwritten.extend_from_slice(part);
                Poll::Ready(io::Result::Ok(()))
            })?;
            if read.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
    }

    fn wrote(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.moves += 1;
        self.unflushed = true;
        Ok(())
    }
}
