//! One client connection: protocol detection, and HTTP/1.1 served by hyper (`http2` serves HTTP/2).
//!
//! With TLS, ALPN decides the protocol. Without TLS the first bytes do: HTTP/2 begins with a preface that no
//! HTTP/1.1 request can begin with (RFC 9113, section 3.4).
//!
//! hyper keeps a connection's buffers, some 20 KiB, for the connection's lifetime. When an HTTP/1.1 client
//! pauses, the connection is taken out of hyper and waits with almost no memory; the next request gets a new
//! hyper connection. This is only safe between two requests, after the last request body has been read and
//! the last answer has been written; otherwise bytes of one would be parsed as the other
//! (`Client::takes_rest`).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::client::{Client, Ending};
use crate::door::{Door, Place};
use crate::early_data::Handshake;
use crate::http2;
use crate::io::{ClientIo, Keeping};
use crate::request_body::RequestBody;
use crate::respond::Body;
use crate::sent::Sent;
use crate::server::{HEADER_BYTES, HEADERS_LIMIT};
use crate::shared::Shared;

/// The HTTP/2 connection preface.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Size of a connection's first read: most requests are smaller.
const FIRST_READ: usize = 1024;

/// A protocol that a connection may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
}

/// What TLS negotiated; the default without TLS.
#[derive(Default)]
pub struct Agreed {
    pub spoken: Option<Spoken>,
    /// Set if requests are served before the handshake is complete.
    pub handshake: Option<Handshake>,
}

/// Serve a client until it disconnects or the gateway closes the connection.
pub async fn serve<I, S, F>(
    shared: Arc<Shared>,
    client: Arc<Client>,
    mut io: I,
    agreed: Agreed,
    door: &Door,
    _place: Place,
    serve: S,
) where
    I: AsyncRead + AsyncWrite + Keeping + Unpin + Send + 'static,
    S: Fn(Arc<Shared>, Arc<Client>, Request<RequestBody>) -> F + Copy + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let _connected = door.for_clients.then(|| shared.connected());
    let watching = tokio::spawn(Arc::clone(&client).watch(door.patience, shared.phase(), door.last));
    let Agreed { mut spoken, handshake } = agreed;
    loop {
        let Some(read) = first_bytes(&mut io, &client, spoken.is_none()).await else {
            // Close cleanly, unless the client has closed first.
            let _ = timeout(door.patience.head, io.shutdown()).await;
            break;
        };
        let begins = if read.starts_with(PREFACE) { Spoken::Http2 } else { Spoken::Http1 };
        let client_io = ClientIo::new(io, read.freeze(), Arc::clone(&client));
        let spoken = *spoken.get_or_insert(begins);
        let service = service(Arc::clone(&shared), &client, door, handshake.clone(), serve);
        // On the heap: a connection is large while it is served, and an idle one should be small.
        match spoken {
            Spoken::Http1 => {
                let (asked, stall) = (Arc::clone(&client), door.patience.stall);
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = service.call(request.map(|body| RequestBody::hyper(body, &asked)));
                    let client = Arc::clone(&asked);
                    async move { Ok(answer.await?.map(|body| Sent::new(body, &client, stall))) }
                });
                match Box::pin(serve_http1(&client, client_io, service)).await {
                    Some(resting) => io = resting,
                    None => break,
                }
            }
            Spoken::Http2 => {
                Box::pin(http2::serve(&client, client_io, service, door.patience)).await;
                break;
            }
        }
    }
    watching.abort();
}

/// Serve HTTP/1.1 requests until the client pauses; then return the connection.
async fn serve_http1<I, S>(client: &Arc<Client>, mut io: ClientIo<I>, service: S) -> Option<I>
where
    I: AsyncRead + AsyncWrite + Keeping + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Sent>, Error = Infallible> + Clone,
{
    loop {
        let mut serving = http1().serve_connection(io, service.clone()).with_upgrades();
        let mut ending = None;
        poll_fn(|cx| match poll_serving(Pin::new(&mut serving), client, &mut ending, cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending if ending.is_none() && client.takes_rest() => Poll::Ready(Some(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let parts = serving.into_parts()?;
        let (resting, unread) = parts.io.into_parts();
        if parts.read_buf.is_empty() && unread.is_empty() {
            return Some(resting);
        }
        // The client has sent part of its next request: go on serving.
        let first = [parts.read_buf, unread].concat().into();
        io = ClientIo::new(resting, first, Arc::clone(client));
    }
}

/// The hyper service that handles each request.
fn service<S, F>(
    shared: Arc<Shared>,
    client: &Arc<Client>,
    door: &Door,
    handshake: Option<Handshake>,
    serve: S,
) -> impl Service<
    Request<RequestBody>,
    Response = Response<Body>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
> + Clone
+ Send
+ 'static
where
    S: Fn(Arc<Shared>, Arc<Client>, Request<RequestBody>) -> F + Copy + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let (client, alternative) = (Arc::clone(client), door.alternative.clone());
    service_fn(move |mut request: Request<RequestBody>| {
        // A request that arrives before the handshake is complete came in early data.
        if let Some(handshake) = handshake.as_ref().filter(|handshake| !handshake.is_complete()) {
            request.extensions_mut().insert(handshake.clone());
        }
        // On the heap: hyper moves the future three times before its first poll, and an `async` block once
        // more, at some kilobytes each.
        let answer = Box::pin(serve(Arc::clone(&shared), Arc::clone(&client), request));
        let (client, alternative) = (Arc::clone(&client), alternative.clone());
        async move {
            let Ok(mut answer) = answer.await;
            if let Some(alternative) = alternative {
                answer.headers_mut().insert(header::ALT_SVC, alternative);
            }
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                client.set_tunnel();
            }
            Ok::<_, Infallible>(answer)
        }
    })
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // `Client` enforces the timeouts for slow and idle clients, for both protocols.
    builder.header_read_timeout(None).max_headers(HEADERS_LIMIT).max_buf_size(HEADER_BYTES);
    builder
}

/// Read the first bytes; if `sniff` is set, as many as identify the protocol. `None` if the connection ends
/// first.
async fn first_bytes<I: AsyncRead + Unpin>(io: &mut I, client: &Client, sniff: bool) -> Option<BytesMut> {
    let mut read = BytesMut::new();
    loop {
        poll_fn(|cx| poll_more(io, client, &mut read, cx)).await?;
        let told = PREFACE.len().min(read.len());
        if !sniff || told == PREFACE.len() || read[..told] != PREFACE[..told] {
            return Some(read);
        }
    }
}

fn poll_more<I: AsyncRead + Unpin>(
    io: &mut I,
    client: &Client,
    read: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Option<()>> {
    let mut room = [0; FIRST_READ];
    let mut buffer = ReadBuf::new(&mut room);
    match Pin::new(io).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
            read.extend_from_slice(buffer.filled());
            Poll::Ready(Some(()))
        }
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => client.poll_ending(None, cx).map(|_| None),
    }
}

/// Ready when the connection has ended, or has to.
fn poll_serving<I, S>(
    mut serving: Pin<&mut http1::UpgradeableConnection<ClientIo<I>, S>>,
    client: &Client,
    ending: &mut Option<Ending>,
    cx: &mut Context<'_>,
) -> Poll<()>
where
    I: AsyncRead + AsyncWrite + Keeping + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Sent>, Error = Infallible>,
{
    loop {
        // A protocol error of the client ends its connection; no further handling is needed.
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match ready!(client.poll_ending(*ending, cx)) {
            Ending::Politely => serving.as_mut().graceful_shutdown(),
            Ending::Cut => return Poll::Ready(()),
        }
        *ending = Some(Ending::Politely);
    }
}
