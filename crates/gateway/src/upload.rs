//! A request body for an instance: buffered whole, or streamed.
//!
//! A small body is buffered first: it can be sent to another instance if the first fails, and no instance
//! waits for a slow client. A large body, or one of unknown length, is streamed: a part is read from the
//! client only when the instance has taken the one before, so that a slow instance slows the client, and an
//! upload of any size buffers a few kilobytes. Once part of a body has been sent it is gone, and the request
//! can't be retried.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::buf::Chain;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Body, Frame};
use hyper::header::HeaderMap;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::io::poll_write_buf;

use crate::headers::{Sent, write_trailers};
use crate::request_body::RequestBody;
use crate::respond::Problem;
use crate::timer::Timer;
use crate::tunnel::Upgrade;
use crate::upstream::Writer;

/// Bodies up to this size are buffered: commands to services are far smaller, and the default concurrency of
/// a service (256) bounds the memory to 16 MiB.
const WHOLE: usize = 64 * 1024;
/// How long to wait for the end of a body of unknown length, if that makes the request retryable: most small
/// bodies arrive with their head.
const GATHER: Duration = Duration::from_millis(20);
/// Timeout for a client's next part.
const PATIENCE: Duration = Duration::from_secs(30);
/// If the length is known, the total time spent waiting for the client is limited as well: to `PATIENCE`,
/// plus a second for each this many bytes received. That is slower than any network in use, but fast enough
/// to stop clients that hold a connection with a trickle. Without a length, the exchange may be a dialogue
/// and has no such limit.
const LEAST_RATE: u64 = 1024;
/// How much of an unwanted body is read before its answer, and for how long, so that an HTTP/1.1 connection
/// can serve the next request.
const DRAIN_LIMIT: usize = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// The same after the answer: a client whose upload is reset may never read its answer (curl 7.88 doesn't if
/// its stream is reset as RFC 9113, section 8.1, allows).
const DISCARD_LIMIT: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A body to send to an instance.
pub enum Upload {
    /// Completely buffered; can be sent again.
    Whole(Bytes),
    Stream(Box<Stream>),
    /// No body; the connection is to be upgraded.
    Upgrade(Box<Upgrade>),
}

/// A client's fault in sending its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    BrokenOff,
    TooLarge { limit: u64 },
    TooSlow,
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::BrokenOff => Self::new(StatusCode::BAD_REQUEST, "the body did not arrive whole"),
            Fault::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Fault::TooLarge { limit } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
            }
        }
    }
}

impl Upload {
    /// Buffer a small body, or prepare to stream a larger one. More than `limit` bytes (0 for no limit) are
    /// refused, now or as they arrive. A client that `offers` (Expect: 100-continue) a body that may be large
    /// isn't asked for it yet.
    pub async fn receive(
        body: &mut RequestBody,
        limit: u64,
        offers: bool,
        repeatable: bool,
    ) -> Result<Self, Fault> {
        let limit = if limit == 0 { u64::MAX } else { limit };
        let mut stream = Stream::new(body, limit, offers)?;
        if stream.length.map_or(!offers, |length| length <= WHOLE as u64) {
            let gathered = Box::pin(stream.gather(repeatable)).await;
            if let Err(fault) = gathered {
                *body = stream.body;
                return Err(fault);
            }
            if stream.ended {
                return Ok(Self::Whole(stream.first));
            }
        }
        Ok(Self::Stream(Box::new(stream)))
    }

    /// Whether part of it has been sent and is gone.
    pub fn is_spent(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.begun)
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Whole(body) if body.is_empty())
    }

    /// The unread rest of the body, to be discarded.
    pub fn into_rest(self) -> RequestBody {
        match self {
            Self::Stream(stream) if !stream.ended => stream.body,
            _ => RequestBody::Taken,
        }
    }
}

/// A streamed body.
pub struct Stream {
    body: RequestBody,
    /// Bytes read before the body was found to be large or slow.
    first: Bytes,
    trailers: Option<HeaderMap>,
    length: Option<u64>,
    limit: u64,
    received: u64,
    offered: bool,
    begun: bool,
    ended: bool,
    /// Total time spent waiting for the client so far.
    waited: Duration,
    /// Start and deadline of the current wait.
    waiting: Option<(Instant, Instant)>,
    timer: Timer,
}

impl Stream {
    /// How the request's head announces the body.
    pub fn sent(&self) -> Sent<'static> {
        Sent { length: self.length, offered: self.offered, upgrade: None }
    }

    fn new(body: &mut RequestBody, limit: u64, offered: bool) -> Result<Self, Fault> {
        let size = body.size_hint();
        if size.lower() > limit {
            return Err(Fault::TooLarge { limit });
        }
        Ok(Self {
            body: std::mem::replace(body, RequestBody::Taken),
            first: Bytes::new(),
            trailers: None,
            length: size.exact(),
            limit,
            received: 0,
            offered,
            begun: false,
            ended: false,
            waited: Duration::ZERO,
            waiting: None,
            timer: Timer::default(),
        })
    }

    /// Buffer a small body to its end. If the length is unknown, take only what is available at once, unless
    /// a short wait may make the request retryable.
    async fn gather(&mut self, repeatable: bool) -> Result<(), Fault> {
        let mut kept = BytesMut::new();
        let mut patience = pin!(sleep(if repeatable { GATHER } else { Duration::ZERO }));
        let known = self.length.is_some();
        let gathered = loop {
            let next = poll_fn(|cx| match self.poll_frame(cx) {
                Poll::Pending if !known && (!repeatable || patience.as_mut().poll(cx).is_ready()) => {
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
            })
            .await;
            match next {
                None => break Ok(()),
                Some(Err(fault)) => break Err(fault),
                Some(Ok(None)) => break Ok(()),
                Some(Ok(Some(frame))) => match frame.into_data() {
                    Ok(part) if self.first.is_empty() && kept.is_empty() => self.first = part,
                    Ok(part) => {
                        if kept.is_empty() {
                            kept.extend_from_slice(&self.first);
                        }
                        kept.extend_from_slice(&part);
                    }
                    Err(frame) => {
                        // Trailers need a chunked body.
                        self.trailers = frame.into_trailers().ok();
                        self.length = None;
                        self.ended = false;
                        break Ok(());
                    }
                },
            }
            if self.received > WHOLE as u64 {
                break Ok(());
            }
        };
        if !kept.is_empty() {
            self.first = kept.freeze();
        }
        gathered
    }

    /// The next part from the client, or the trailers; `None` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Fault>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_too_slow(cx).map(|()| Err(Fault::TooSlow));
        };
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        let Some(frame) = frame else {
            self.ended = true;
            let whole = self.length.is_none_or(|length| length == self.received);
            return Poll::Ready(if whole { Ok(None) } else { Err(Fault::BrokenOff) });
        };
        let frame = frame.map_err(|_| Fault::BrokenOff)?;
        self.received += frame.data_ref().map_or(0, |part| part.len() as u64);
        if self.received > self.limit {
            return Poll::Ready(Err(Fault::TooLarge { limit: self.limit }));
        }
        Poll::Ready(Ok(Some(frame)))
    }

    /// Discard the rest, within limits.
    pub async fn discard(&mut self) {
        discard(&mut self.body).await;
    }

    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (_, until) = *self.waiting.get_or_insert_with(|| {
            let earned = PATIENCE + Duration::from_secs(self.received / LEAST_RATE);
            let left = self.length.map_or(PATIENCE, |_| earned.saturating_sub(self.waited));
            let now = Instant::now();
            (now, now + left.min(PATIENCE))
        });
        self.timer.poll_late(until, cx)
    }

    /// The next frame for the instance; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Fault>> {
        let next = if !self.first.is_empty() {
            Some(Frame::data(std::mem::take(&mut self.first)))
        } else if let Some(trailers) = self.trailers.take() {
            self.ended = true;
            Some(Frame::trailers(trailers))
        } else {
            ready!(self.poll_frame(cx))?
        };
        self.begun |= next.is_some();
        Poll::Ready(Ok(next))
    }
}

/// A head and its body being written to a connection.
pub struct Sending {
    /// Chunk size, data, and end of chunk.
    unsent: Chain<Chain<Bytes, Bytes>, &'static [u8]>,
    chunked: bool,
    last: bool,
    /// Whether writing waits for the client.
    pub waits_for_client: bool,
    /// Number of successful writes.
    pub writes: u64,
}

/// Why sending a body stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    Client(Fault),
    Instance,
}

impl Sending {
    pub fn new(head: Vec<u8>, chunked: bool) -> Self {
        let unsent = Bytes::from(head).chain(Bytes::new()).chain(&b""[..]);
        Self { unsent, chunked, last: false, waits_for_client: false, writes: 0 }
    }

    /// Write what is buffered.
    pub fn poll_flush(&mut self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        self.waits_for_client = false;
        while self.unsent.has_remaining() {
            let written = ready!(poll_write_buf(Pin::new(&mut *writer), cx, &mut self.unsent));
            if !written.is_ok_and(|written| written > 0) {
                return Poll::Ready(Err(Stopped::Instance));
            }
            self.writes += 1;
        }
        Pin::new(writer).poll_flush(cx).map_err(|_| Stopped::Instance)
    }

    /// Write what is buffered, then the rest of the stream.
    pub fn poll(
        &mut self,
        stream: &mut Stream,
        writer: &mut Writer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        loop {
            ready!(self.poll_flush(writer, cx))?;
            if self.last {
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(next) = stream.poll_next(cx) else {
                self.waits_for_client = true;
                return Poll::Pending;
            };
            match next.map_err(Stopped::Client)?.map(Frame::into_data) {
                Some(Ok(part)) => self.put(part),
                Some(Err(frame)) => self.end(frame.into_trailers().ok()),
                None => self.end(None),
            }
        }
    }

    fn put(&mut self, part: Bytes) {
        // An empty chunk would be the last one.
        let chunked = self.chunked && !part.is_empty();
        let (size, end) =
            if chunked { (format!("{:x}\r\n", part.len()), &b"\r\n"[..]) } else { Default::default() };
        self.unsent = Bytes::from(size).chain(part).chain(end);
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.last = true;
        if self.chunked {
            let mut end = Vec::new();
            write_trailers(&mut end, &trailers.unwrap_or_default());
            self.unsent = Bytes::from(end).chain(Bytes::new()).chain(&b""[..]);
        }
    }

    /// Keep sending while the answer is being read, until either ends.
    pub fn carry_on(mut self, mut stream: Box<Stream>, mut writer: Writer) -> CarriedOn {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        tokio::spawn(async move {
            let sent = tokio::select! {
                sent = poll_fn(|cx| self.poll(&mut stream, &mut writer, cx)) => sent,
                _ = &mut stopped => Err(Stopped::Instance),
            };
            match sent {
                // If the receiver is gone, the connection is dropped.
                Ok(()) => drop(done.send(writer)),
                Err(Stopped::Client(_)) => {}
                Err(Stopped::Instance) => {
                    drop(writer);
                    stream.discard().await;
                }
            }
        });
        CarriedOn { _stop: stop, finished }
    }
}

/// A body being sent while its answer is read; dropping this stops it.
pub struct CarriedOn {
    _stop: oneshot::Sender<()>,
    finished: oneshot::Receiver<Writer>,
}

impl CarriedOn {
    /// The connection's write half, if the whole body was sent.
    pub fn finish(mut self) -> Option<Writer> {
        self.finished.try_recv().ok()
    }
}

/// Read the rest of a body; whether it was small and fast enough to reach its end.
pub async fn drain(body: &mut RequestBody) -> bool {
    drained(body, DRAIN_LIMIT, DRAIN_TIMEOUT).await
}

/// Discard the rest of a body, within limits.
pub async fn discard(body: &mut RequestBody) {
    drained(body, DISCARD_LIMIT, DISCARD_TIMEOUT).await;
}

/// Read the rest of a body; whether it ended within `limit` bytes and `patience`.
async fn drained(body: &mut RequestBody, limit: usize, patience: Duration) -> bool {
    let mut rest = Limited::new(body, limit);
    let whole = async {
        while let Some(frame) = rest.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(patience, whole).await.unwrap_or(false)
}
