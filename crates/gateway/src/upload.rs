//! A request body on its way to an instance: buffered whole, or streamed.
//!
//! A small one is waited for. It can then be sent to another instance if the first fails, and no
//! instance waits for a slow client. A large one, and one whose length nobody knows, goes on part
//! by part: a part is read from the client only when the instance has taken the one before, so
//! that a slow instance slows the client, and an upload of any size holds a few kilobytes here.
//! What has gone on is gone, and such a request is not repeated from then on.

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

/// A body up to this size is held whole: commands of services are smaller by far, and as many
/// requests as a service may have at once (256) hold 16 MiB at most.
const WHOLE: usize = 64 * 1024;
/// How long the end of a body of unknown length is waited for, if it would let the request be
/// repeated: those that are small mostly are there along with their heads.
const GATHER: Duration = Duration::from_millis(20);
/// A client may take this long over its next part.
const PATIENCE: Duration = Duration::from_secs(30);
/// In all it may keep an instance waiting for as long as above, and a second longer for each so many
/// bytes of a body whose length it has told: slower than any network that people use, faster than
/// those who want to hold a connection for little. Where no length is told, both sides may talk.
const LEAST_RATE: u64 = 1024;
/// How much of a body that nobody wants is read before its answer, and for how long, so that an
/// HTTP/1.1 connection can serve the next request.
const DRAIN_LIMIT: usize = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// The same after the answer: a client that is cut off while it sends may never read what it was
/// answered (curl 7.88 does not, if its stream is reset as RFC 9113 section 8.1 allows).
const DISCARD_LIMIT: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A body as an instance is to get it.
pub enum Upload {
    /// All of it is here, and can be sent again.
    Whole(Bytes),
    Stream(Box<Stream>),
    /// None, but the connection is to be used for something else.
    Upgrade(Box<Upgrade>),
}

/// What a client did wrong with its body.
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
    /// Wait for a small body; take a larger one as it will come. More than `limit` bytes (0 for no
    /// limit) are refused, now or when they come. A client that `offers` a body which may be large is
    /// not asked for it yet.
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

    /// Whether some of it was sent and is not here any more.
    pub fn is_spent(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.begun)
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Whole(body) if body.is_empty())
    }

    /// What the client has not sent yet, for whoever discards it.
    pub fn into_rest(self) -> RequestBody {
        match self {
            Self::Stream(stream) if !stream.ended => stream.body,
            _ => RequestBody::Taken,
        }
    }
}

/// A body that goes on as it comes.
pub struct Stream {
    body: RequestBody,
    /// What was read before it was known that the rest will be long in coming.
    first: Bytes,
    trailers: Option<HeaderMap>,
    length: Option<u64>,
    limit: u64,
    received: u64,
    offered: bool,
    begun: bool,
    ended: bool,
    /// For how long the client has been waited for, before this time.
    waited: Duration,
    /// Since when it is waited for now, and until when.
    waiting: Option<(Instant, Instant)>,
    timer: Timer,
}

impl Stream {
    /// How the head of the request announces it.
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

    /// Keep what comes, until the end of a small body. Where its length is unknown, what is there at
    /// once is all that is waited for, unless a little patience may make the request repeatable.
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
                        // They can only follow a body in chunks.
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

    /// The next part from the client, the trailers, or nothing at the end.
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

    /// Throw away what is left of it, for a while.
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

    /// What goes to the instance next, or nothing at the end.
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

/// A head and its body on their way into one connection.
pub struct Sending {
    /// Framing, a part, and what follows it.
    unsent: Chain<Chain<Bytes, Bytes>, &'static [u8]>,
    chunked: bool,
    last: bool,
    /// Whether nothing is written because the client has sent nothing.
    pub waits_for_client: bool,
    /// How many times something was written.
    pub writes: u64,
}

/// Why a body does not go on.
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

    /// Write what is here already.
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

    /// Write all there is, and all that comes.
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
        // A chunk of no bytes would be the last.
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

    /// Go on while the answer is on its way already, until the end of either.
    pub fn carry_on(mut self, mut stream: Box<Stream>, mut writer: Writer) -> CarriedOn {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        tokio::spawn(async move {
            let sent = tokio::select! {
                sent = poll_fn(|cx| self.poll(&mut stream, &mut writer, cx)) => sent,
                _ = &mut stopped => Err(Stopped::Instance),
            };
            match sent {
                // Whoever has gone meanwhile has no use for the connection.
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

/// A body that is sent while its answer is read; dropping this ends it.
pub struct CarriedOn {
    _stop: oneshot::Sender<()>,
    finished: oneshot::Receiver<Writer>,
}

impl CarriedOn {
    /// The connection's other half, if all of the body was sent.
    pub fn finish(mut self) -> Option<Writer> {
        self.finished.try_recv().ok()
    }
}

/// Whether what is left of a body is there soon enough, and small enough, to be waited for.
pub async fn drain(body: &mut RequestBody) -> bool {
    drained(body, DRAIN_LIMIT, DRAIN_TIMEOUT).await
}

/// Throw away what is left of a body, for a while.
pub async fn discard(body: &mut RequestBody) {
    drained(body, DISCARD_LIMIT, DISCARD_TIMEOUT).await;
}

/// Read what is left of a body. Whether all of it came: not more than `limit` bytes, in `patience`.
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
