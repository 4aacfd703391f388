//! Tunnels: connections that are upgraded from HTTP, such as WebSocket (RFC 6455).
//!
//! A request asks for it, by `Upgrade` in HTTP/1.1 or by the extended CONNECT of HTTP/2 (RFC 8441), and
//! is checked and limited like any other. The instance is asked in HTTP/1.1 either way. If it agrees,
//! bytes go to and fro until both sides have ended, or neither has sent any for too long. A side that
//! takes nothing is not read for: what is held for each direction is one read, and nothing while
//! it is idle, since what is read lies in a buffer of the worker until it is written.

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

/// One read, in either direction: what a TLS record holds at most.
const READ: usize = 16 * 1024;
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
/// What a server proves with that it understood the request (RFC 6455, section 1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// What a client asks to go over to.
pub struct Upgrade {
    pub protocol: HeaderValue,
    /// What proves in HTTP/1.1 that the instance understood; HTTP/2 does without.
    pub key: Option<HeaderValue>,
    client: Client,
    idle: Duration,
}

/// The client's side, once the answer has left.
#[derive(Clone)]
enum Client {
    Http1(OnUpgrade),
    Http2(Handover),
}

/// The method that a request is routed by: the extended CONNECT stands for the GET of HTTP/1.1.
pub fn method(parts: &Parts) -> &Method {
    if parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_some() {
        return &Method::GET;
    }
    &parts.method
}

/// Whether a request asks for a tunnel and nothing else, in HTTP/2: in HTTP/1.1 it is a request that may be served as
/// one, here its answer of 2xx would say that there is a tunnel (RFC 8441, section 4).
pub fn is_all_that_is_asked(parts: &Parts) -> bool {
    parts.method == Method::CONNECT
}

/// The answer to a request that asks for a tunnel alone: one, or why there is none.
///
/// # Errors
/// The service has answered as if it had been asked for something else.
pub fn or_refused(answer: Response<Body>) -> Result<Response<Body>, Problem> {
    if answer.status().is_success() && !matches!(answer.body(), Body::Tunnel(_)) {
        let detail = "the service did not go over to the protocol that was asked for";
        return Err(Problem::new(StatusCode::BAD_GATEWAY, detail));
    }
    Ok(answer)
}

/// What is said where a protocol is not offered (RFC 9220, section 3).
pub fn not_offered() -> Problem {
    Problem::new(StatusCode::NOT_IMPLEMENTED, "the protocol that is asked for is not offered here")
}

impl Upgrade {
    /// What a request asks for, if it is one of `offered`; idle for longer than `idle` it will end. In
    /// HTTP/1.1 one with a body of its own is taken for what it is without.
    pub fn asked(parts: &Parts, has_body: bool, offered: &[String], idle: Duration) -> Option<Self> {
        let offers = |asked: &str| offered.iter().any(|each| each.eq_ignore_ascii_case(asked));
        if let Some(protocol) = parts.extensions.get::<Protocol>() {
            // A WebSocket is the one protocol that is known to be the same in HTTP/1.1.
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

    /// Whether the instance goes over to what was asked for.
    pub fn is_granted(&self, head: &Head) -> bool {
        let same = |granted: &HeaderValue| granted.as_bytes().eq_ignore_ascii_case(self.protocol.as_bytes());
        let proved = |key: &HeaderValue| text(&head.headers, SEC_WEBSOCKET_ACCEPT) == accept(key);
        head.status == StatusCode::SWITCHING_PROTOCOLS
            && head.upgrade.as_ref().is_some_and(same)
            && self.key.as_ref().is_none_or(proved)
    }

    /// The answer that makes a tunnel of the client's connection, to be opened when it leaves.
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

/// 16 random bytes (RFC 6455, section 4.1), or none if the system has none to give.
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

/// Two connections that will be one.
pub struct Tunnel {
    client: Client,
    instance: tokio::io::Join<Reader, Writer>,
    /// What the instance sent along with its agreement.
    read: BytesMut,
    idle: Duration,
    kept: Vec<Box<dyn Any + Send>>,
}

impl Tunnel {
    /// Keep something until the tunnel ends.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        self.kept.push(Box::new(kept));
    }

    /// Go over once the answer has left. A drain waits for it as for a client's connection.
    pub fn open(self, connected: Connected) {
        let Self { client, mut instance, read, idle, kept } = self;
        tokio::spawn(async move {
            // A client that is gone before its answer needs no tunnel, and either side may end one.
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

/// Carry bytes to and fro until both sides have ended, or for `idle` there were none.
///
/// # Errors
/// When a side breaks off, or with `TimedOut`.
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
    /// Read, and not yet written.
    unwritten: BytesMut,
    unflushed: bool,
    ended: bool,
    moves: u64,
}

impl Flow {
    fn new(unwritten: BytesMut) -> Self {
        Self { unwritten, unflushed: false, ended: false, moves: 0 }
    }

    /// Carry on until there is nothing to read, or nothing more is taken; ready at the end.
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
