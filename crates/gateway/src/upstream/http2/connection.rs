//! An HTTP/2 connection to an instance, and its streams.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use hyper::http::Request;
use hyper::http::uri::Scheme;
use tokio::time::Instant;

use crate::server::HEADER_BYTES;
use crate::upstream::stream::Stream;

/// Concurrent requests per connection, even if the instance allows more. RFC 9113, section 6.5.2 recommends
/// that servers allow at least 100.
pub const STREAMS: usize = 100;
/// The window of a stream: enough for 500 Mbit/s at 1 ms, as within a data centre.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The window of a connection: the sum of its streams' windows, so that slow clients never block the
/// responses of others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
/// Request bytes buffered per stream until they are written.
const SEND_BUFFER: usize = 64 * 1024;

pub struct Connection {
    sender: SendRequest<Bytes>,
    /// Whether over TLS.
    secured: bool,
    streams: Arc<Streams>,
    /// Whether it accepts no more requests.
    ended: Arc<AtomicBool>,
    /// When it reaches its maximum age.
    end: Instant,
}

/// The requests of one connection.
struct Streams {
    began: Instant,
    under_way: AtomicUsize,
    /// When the connection last became idle, in nanoseconds since `began`.
    idle_since_ns: AtomicU64,
}

impl Connection {
    /// Perform the HTTP/2 handshake and wait for the instance's limit on concurrent streams: some instances
    /// close a connection that exceeds it. A task of its own drives the connection.
    ///
    /// # Errors
    /// The instance doesn't speak HTTP/2.
    pub async fn new(stream: Stream, end: Instant) -> Result<Self, h2::Error> {
        let secured = matches!(stream, Stream::Secured(_));
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(0)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_BYTES as u32)
            .max_send_buffer_size(SEND_BUFFER);
        let (sender, mut driven) = builder.handshake(stream).await?;
        poll_fn(|cx| match Pin::new(&mut driven).poll(cx) {
            Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
            Poll::Ready(ended) => Poll::Ready(Err(ended.err().unwrap_or(Reason::NO_ERROR.into()))),
        })
        .await?;
        let ended = Arc::<AtomicBool>::default();
        let at_end = Arc::clone(&ended);
        tokio::spawn(async move {
            // Each request gets the error itself.
            let _ = driven.await;
            at_end.store(true, Ordering::Relaxed);
        });
        let (under_way, idle_since_ns) = (AtomicUsize::new(0), AtomicU64::new(0));
        let streams = Arc::new(Streams { began: Instant::now(), under_way, idle_since_ns });
        Ok(Self { sender, secured, streams, ended, end })
    }

    /// How many more requests it accepts.
    pub fn room(&self) -> usize {
        let most = self.sender.current_max_send_streams().min(STREAMS);
        most.saturating_sub(self.streams())
    }

    pub fn streams(&self) -> usize {
        self.streams.under_way.load(Ordering::Relaxed)
    }

    /// Whether it accepts another request at `now`: it has neither ended, nor reached its maximum age, nor
    /// been idle for longer than `idle`. A connection dropped from the pool closes when its last request
    /// ends.
    pub fn is_good(&self, now: Instant, idle: Duration) -> bool {
        let Streams { began, idle_since_ns, .. } = &*self.streams;
        let idle_since = *began + Duration::from_nanos(idle_since_ns.load(Ordering::Relaxed));
        !self.has_ended() && now < self.end && (self.streams() > 0 || now < idle_since + idle)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Reserve a place for a request.
    pub fn lease(&self) -> Lease {
        self.streams.under_way.fetch_add(1, Ordering::Relaxed);
        let (sender, streams, ended) =
            (self.sender.clone(), Arc::clone(&self.streams), Arc::clone(&self.ended));
        Lease { sender, secured: self.secured, streams, ended }
    }
}

/// A place for a request on a connection, released on drop.
pub struct Lease {
    sender: SendRequest<Bytes>,
    secured: bool,
    streams: Arc<Streams>,
    ended: Arc<AtomicBool>,
}

impl Lease {
    /// Send the head of a request.
    ///
    /// # Errors
    /// The connection takes no more requests; nothing was sent.
    pub fn send(
        &mut self,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.send_request(request, is_whole)
    }

    /// The scheme of its requests.
    pub fn scheme(&self) -> Scheme {
        if self.secured { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// Accept no more requests on this connection.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.streams.under_way.load(Ordering::Relaxed) == 1 {
            let since = self.streams.began.elapsed().as_nanos();
            self.streams.idle_since_ns.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.streams.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
