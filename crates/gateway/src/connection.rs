//! One client's connection: which protocol it speaks, and hyper serving HTTP/1.1 (`http2` serves HTTP/2).
//!
//! Where TLS has agreed on a protocol, that one is spoken. Without TLS the first bytes tell: HTTP/2
//! begins with a preface that no request of HTTP/1.1 begins with (RFC 9113, section 3.4).
//!
//! hyper keeps a connection's buffers for as long as it lives, some 20 KiB. A client of HTTP/1.1 that
//! pauses is taken from it, and waited for with next to nothing: when it asks again, hyper is put
//! before it anew. This must only be done between two requests, when all of the last body is read and
//! all of the last answer is written, or bytes of one would be taken for another (`Client::takes_rest`).

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

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first read of a connection: most requests are smaller.
const FIRST_READ: usize = 1024;

/// A protocol that a connection may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
}

/// What TLS has settled about a connection; nothing without TLS.
#[derive(Default)]
pub struct Agreed {
    pub spoken: Option<Spoken>,
    /// Where requests are served before it is complete.
    pub handshake: Option<Handshake>,
}

/// Serve a client until it goes, or has to go.
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
            // The client hears that this is the end, unless it has gone first.
            let _ = timeout(door.patience.head, io.shutdown()).await;
            break;
        };
        let begins = if read.starts_with(PREFACE) { Spoken::Http2 } else { Spoken::Http1 };
        let client_io = ClientIo::new(io, read.freeze(), Arc::clone(&client));
        let spoken = *spoken.get_or_insert(begins);
        let service = service(Arc::clone(&shared), &client, door, handshake.clone(), serve);
        // On the heap, since connections are large while they are served, and who waits should not be.
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

/// Serve requests of HTTP/1.1 until the client pauses: its connection is returned then.
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
        // The beginning of a request, from a client that is slow to send it.
        let first = [parts.read_buf, unread].concat().into();
        io = ClientIo::new(resting, first, Arc::clone(client));
    }
}

/// What is asked for each request.
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
        // What is here before the handshake is complete came in early data, and nothing later did.
        if let Some(handshake) = handshake.as_ref().filter(|handshake| !handshake.is_complete()) {
            request.extensions_mut().insert(handshake.clone());
        }
        // On the heap: hyper moves what it is given three times before it asks for the first time, and an
        // `async` block once more, at some kilobytes for each.
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
    // Clients that are slow or idle are watched for by `Client`, in either protocol.
    builder.header_read_timeout(None).max_headers(HEADERS_LIMIT).max_buf_size(HEADER_BYTES);
    builder
}

/// Wait for the first bytes, and where nobody has said so for as many as tell which protocol they
/// are of. Nothing if the client goes or has to go before.
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

/// Ready when the client has gone, or has to go.
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
        // A client's protocol error ends its connection, which is all it needs to know.
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
