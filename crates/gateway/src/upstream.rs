//! Exchanges with instances, over connections that each worker keeps for itself.
//!
//! A connection has no task of its own: whoever waits for its answer reads it. An idle one that
//! the instance has closed is found out before anything is sent on it.

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use rustc_hash::FxHashMap;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout_at};
use tokio_util::io::poll_read_buf;

use crate::headers::{self, Added, Sent, text};
use crate::http1::{Framing, Head, Malformed, head};
use crate::respond::Body;
use crate::timer::Timer;
use crate::tunnel::{self, Upgrade};
use crate::upload::{CarriedOn, Fault, Sending, Stopped, Stream, Upload};

/// Idle connections kept to one address: as many as a service has requests under way at most, if
/// nothing else is said. With fewer, a load between the two opens and closes one for each request.
const IDLE: usize = 256;
/// An answer up to this size is read whole before any of it leaves, so that a broken one can be
/// asked for again; what is larger passes through.
const WHOLE: usize = 256 * 1024;
/// Server-sent events pass through as they come, and may be this far apart.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A body up to this size is sent along with its head.
const TOGETHER: usize = 16 * 1024;
const READ: usize = 8 * 1024;
/// Interim answers (1xx) before the one that counts.
const INTERIM: u32 = 16;
/// How long an instance may think about whether it wants a body that it is offered; many never say
/// (RFC 9110, section 10.1.1, has the client wait no longer than is sensible).
const OFFER_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    #[expect(clippy::vec_box, reason = "connections are large, and change hands with each exchange")]
    static POOL: RefCell<FxHashMap<String, Vec<Box<Connection>>>> = RefCell::default();
}

/// What went wrong with one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request never reached the instance.
    Connect,
    /// It may have reached it; nobody knows what became of it.
    Unknown,
    /// As `Unknown`, and the instance still had not answered at the end of its time.
    Late,
    /// The client did not send its body as it should; the instance has done nothing wrong.
    Client(Fault),
}

/// How long an instance may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// For its answer: the head, and the whole of it if it is small.
    pub answer: Duration,
    /// Between two parts of what passes through.
    pub idle: Duration,
}

/// A request as an instance gets it.
pub struct Outgoing<'a> {
    pub parts: &'a Parts,
    pub added: Added<'a>,
    pub body: &'a mut Upload,
}

/// Send one request to `address` and wait for its answer, until `now + answer`; for each further
/// part of one that passes through, in either direction, as long as they may be idle, or as events may
/// be apart.
pub async fn exchange(
    address: &str,
    request: Outgoing<'_>,
    now: Instant,
    timeouts: &Timeouts,
) -> Result<Response<Body>, Failure> {
    let deadline = now + timeouts.answer;
    let mut connection = match pooled(address) {
        Some(connection) => connection,
        None => Box::pin(connect(address, deadline, timeouts.connect)).await?,
    };
    let Outgoing { parts, added, body } = request;
    let method = tunnel::method(parts);
    let (head, carried_on) = match body {
        Upload::Whole(whole) => {
            let sent = Sent { length: Some(whole.len() as u64), offered: false, upgrade: None };
            let body = connection.write(parts, &added, sent, whole);
            (connection.ask(method, None, body, deadline).await?, None)
        }
        Upload::Stream(stream) => {
            let sent = stream.sent();
            connection.write(parts, &added, sent, &[]);
            let (head, sending) =
                Box::pin(connection.ask_streaming(method, stream, sent, timeouts.idle)).await?;
            (head, sending.and_then(|sending| connection.carry_on(sending, body)))
        }
        Upload::Upgrade(upgrade) => {
            let sent = Sent { length: Some(0), offered: false, upgrade: Some(upgrade) };
            let body = connection.write(parts, &added, sent, &[]);
            let head = connection.ask(method, Some(upgrade), body, deadline).await?;
            if head.upgrade.is_some() {
                return connection.tunnel(upgrade, head.headers);
            }
            (head, None)
        }
    };
    let Head { status, headers, mut framing, reusable, .. } = head;
    let mut read = Joined::default();
    let mut trailers = None;
    let events = text(&headers, header::CONTENT_TYPE).starts_with("text/event-stream");
    let timeout = if events { EVENT_TIMEOUT } else { timeouts.idle };
    let through = events || carried_on.is_some();
    let body = loop {
        if through || read.len().max(usize::try_from(framing.at_least()).unwrap_or(usize::MAX)) > WHOLE {
            let (read, address) = (read.into(), reusable.then(|| address.to_owned()));
            let rest = Rest {
                framing,
                connection: Some(connection),
                address,
                timeout,
                carried_on,
                ..Rest::of(read)
            };
            break Body::Rest(Box::new(rest));
        }
        let Some(part) = connection.part(&mut framing, deadline).await? else {
            if reusable {
                give_back(address, connection);
            }
            break match trailers {
                None => Body::Whole(read.into()),
                trailers => Body::Rest(Box::new(Rest { trailers, ..Rest::of(read.into()) })),
            };
        };
        match part.into_data() {
            Ok(part) => read.push(part),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// A connection to an instance; between two exchanges there is nothing unread on it.
struct Connection {
    reader: OwnedReadHalf,
    /// Elsewhere while a body is still sent that is being answered already.
    writer: Option<OwnedWriteHalf>,
    read: BytesMut,
    /// The head of a request, and its body if that is small.
    unsent: Vec<u8>,
    timer: Timer,
}

impl Connection {
    /// Write a head for sending, and its body along with it if that is small; returns what remains.
    fn write<'a>(&mut self, parts: &Parts, added: &Added<'_>, sent: Sent<'_>, body: &'a [u8]) -> &'a [u8] {
        let out = &mut self.unsent;
        out.clear();
        let method = tunnel::method(parts);
        out.extend_from_slice(method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(parts.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        headers::write(out, method, &parts.headers, added, sent);
        out.extend_from_slice(b"\r\n");
        if body.len() > TOGETHER {
            return body;
        }
        out.extend_from_slice(body);
        &[]
    }

    /// Send a request, and read the head of its answer.
    async fn ask(
        &mut self,
        method: &Method,
        upgrade: Option<&Upgrade>,
        mut body: &[u8],
        deadline: Instant,
    ) -> Result<Head, Failure> {
        let asked_for_head = *method == Method::HEAD;
        let (mut sent, mut interim) = (0, 0);
        self.until(deadline, |connection, cx| {
            // An instance may answer, and even close, before it has read all of a request.
            let done = connection.poll_send(&mut sent, &mut body, cx);
            loop {
                let mut head = ready!(connection.poll_head(asked_for_head, upgrade, &mut interim, cx))?;
                if !head.status.is_informational() || head.upgrade.is_some() {
                    head.reusable &= matches!(done, Poll::Ready(Ok(())));
                    return Poll::Ready(Ok(head));
                }
            }
        })
        .await
    }

    /// The same for a body that goes on as it comes. What is left to send is returned along with the
    /// head of an answer that came before the end of the body and is no refusal.
    async fn ask_streaming(
        &mut self,
        method: &Method,
        stream: &mut Stream,
        sent: Sent<'_>,
        timeout: Duration,
    ) -> Result<(Head, Option<Sending>), Failure> {
        let asked_for_head = *method == Method::HEAD;
        let mut interim = 0;
        let mut sending = Sending::new(std::mem::take(&mut self.unsent), sent.length.is_none());
        let mut offered_until = sent.offered.then(|| Instant::now() + OFFER_TIMEOUT.min(timeout));
        let (mut writes, mut until) = (0, None);
        let (mut head, done) = poll_fn(|cx| {
            loop {
                let done = match &mut self.writer {
                    Some(writer) if offered_until.is_some() => {
                        sending.poll_flush(writer, cx).map_ok(|()| false)
                    }
                    Some(writer) => sending.poll(stream, writer, cx).map_ok(|()| true),
                    None => Poll::Ready(Err(Stopped::Instance)),
                };
                if let Poll::Ready(Err(Stopped::Client(fault))) = done {
                    return Poll::Ready(Err(Failure::Client(fault)));
                }
                match self.poll_head(asked_for_head, None, &mut interim, cx)? {
                    Poll::Ready(head) if head.status.is_informational() => {
                        if head.status == StatusCode::CONTINUE {
                            offered_until = None;
                        }
                        continue;
                    }
                    Poll::Ready(head) => return Poll::Ready(Ok((head, done))),
                    Poll::Pending => {}
                }
                if let Some(offered) = offered_until {
                    ready!(self.timer.poll_late(offered, cx));
                    offered_until = None;
                    continue;
                }
                if sending.waits_for_client || writes != sending.writes {
                    // It is not the instance that is waited for, or it goes on taking the body.
                    (writes, until) = (sending.writes, None);
                }
                if sending.waits_for_client {
                    return Poll::Pending;
                }
                let until = *until.get_or_insert_with(|| Instant::now() + timeout);
                return self.timer.poll_late(until, cx).map(|()| Err(Failure::Late));
            }
        })
        .await?;
        let finished = matches!(done, Poll::Ready(Ok(true)));
        let wanted = head.status.as_u16() < 400 && head.reusable && done.is_pending();
        head.reusable &= finished || wanted;
        Ok((head, wanted.then_some(sending)))
    }

    /// Give up the connection to what it goes over to.
    fn tunnel(self, upgrade: &Upgrade, headers: HeaderMap) -> Result<Response<Body>, Failure> {
        let writer = self.writer.ok_or(Failure::Unknown)?;
        Ok(upgrade.tunnel(headers, self.reader, writer, self.read))
    }

    /// Leave the rest of a body to a task of its own, now that its answer is there to be read.
    fn carry_on(&mut self, sending: Sending, body: &mut Upload) -> Option<CarriedOn> {
        match std::mem::replace(body, Upload::Whole(Bytes::new())) {
            Upload::Stream(stream) => self.writer.take().map(|writer| sending.carry_on(stream, writer)),
            Upload::Whole(_) | Upload::Upgrade(_) => None,
        }
    }

    fn poll_send(
        &mut self,
        sent: &mut usize,
        body: &mut &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        while *sent < self.unsent.len() {
            *sent += ready!(Pin::new(&mut *writer).poll_write(cx, &self.unsent[*sent..]))?;
        }
        while !body.is_empty() {
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, body))?;
            *body = &body[written..];
        }
        Poll::Ready(Ok(()))
    }

    /// The head of the answer, or of one that only tells how things stand (1xx), or goes over to what
    /// was asked for.
    fn poll_head(
        &mut self,
        asked_for_head: bool,
        upgrade: Option<&Upgrade>,
        interim: &mut u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Failure>> {
        loop {
            match head(&mut self.read, asked_for_head) {
                Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                    if upgrade.is_some_and(|upgrade| upgrade.is_granted(&head)) {
                        return Poll::Ready(Ok(head));
                    }
                    break;
                }
                Ok(Some(head)) if head.status.is_informational() => {
                    *interim += 1;
                    if *interim > INTERIM {
                        break;
                    }
                    return Poll::Ready(Ok(head));
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => match ready!(self.poll_read(cx)) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                },
                Err(_) => break,
            }
        }
        Poll::Ready(Err(Failure::Unknown))
    }

    /// The next part of the answer's body, its trailers, or nothing at its end.
    async fn part(
        &mut self,
        framing: &mut Framing,
        deadline: Instant,
    ) -> Result<Option<Frame<Bytes>>, Failure> {
        self.until(deadline, |connection, cx| connection.poll_part(framing, cx).map_err(|_| Failure::Unknown))
            .await
    }

    fn poll_part(
        &mut self,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        loop {
            if let Some(part) = framing.take(&mut self.read)? {
                return Poll::Ready(Ok(Some(part)));
            }
            if *framing == Framing::Done {
                return Poll::Ready(Ok(None));
            }
            if ready!(self.poll_read(cx))? == 0 {
                framing.close()?;
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(READ);
        poll_read_buf(Pin::new(&mut self.reader), cx, &mut self.read)
    }

    /// What `step` leads to, or `Late` after the deadline.
    async fn until<T>(
        &mut self,
        deadline: Instant,
        mut step: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        poll_fn(|cx| match step(self, cx) {
            Poll::Pending => self.timer.poll_late(deadline, cx).map(|()| Err(Failure::Late)),
            ready => ready,
        })
        .await
    }

    /// Whether an idle connection is still good: nothing has come on it, not even its end.
    fn is_good(&self) -> bool {
        let read = self.reader.try_read(&mut [0]);
        self.read.is_empty() && matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        io::ErrorKind::InvalidData.into()
    }
}

/// The rest of an answer that is large, or has trailers, on its way through.
pub struct Rest {
    read: Bytes,
    trailers: Option<HeaderMap>,
    framing: Framing,
    connection: Option<Box<Connection>>,
    /// Where the connection belongs when all is read, if it is good for more.
    address: Option<String>,
    timeout: Duration,
    /// Until when the next part must be here, while one is waited for.
    until: Option<Instant>,
    /// The body of the request, if that is still under way.
    carried_on: Option<CarriedOn>,
    /// What ends with the last part.
    kept: Vec<Box<dyn Any + Send>>,
}

impl Rest {
    /// What was read already, and nothing more.
    fn of(read: Bytes) -> Self {
        Self {
            read,
            trailers: None,
            framing: Framing::Done,
            connection: None,
            address: None,
            timeout: Duration::ZERO,
            until: None,
            carried_on: None,
            kept: Vec::new(),
        }
    }

    /// Keep something until the last part is through.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        self.kept.push(Box::new(kept));
    }

    /// Put back what was read of it, to be read again.
    pub fn put_back(&mut self, read: Bytes) {
        self.read = read;
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let part = match connection.poll_part(&mut self.framing, cx) {
            Poll::Ready(part) => part,
            Poll::Pending => {
                let until = *self.until.get_or_insert_with(|| Instant::now() + self.timeout);
                ready!(connection.timer.poll_late(until, cx));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        self.until = None;
        if self.framing == Framing::Done {
            self.finish();
        }
        Poll::Ready(part.transpose())
    }

    /// All is read: the connection may serve another request if all was sent as well.
    fn finish(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if let Some(carried_on) = self.carried_on.take() {
            connection.writer = carried_on.finish();
        }
        if let Some(address) = self.address.take()
            && connection.writer.is_some()
        {
            give_back(&address, connection);
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.framing == Framing::Done && self.trailers.is_none()
    }

    pub fn size_hint(&self) -> SizeHint {
        let known = self.read.len() as u64 + self.framing.at_least();
        match self.framing {
            Framing::Length(_) | Framing::Done if self.trailers.is_none() => SizeHint::with_exact(known),
            _ => {
                let mut hint = SizeHint::default();
                hint.set_lower(known);
                hint
            }
        }
    }
}

/// Parts read so far; nothing is copied for as long as there is one part.
#[derive(Default)]
struct Joined {
    first: Bytes,
    more: BytesMut,
}

impl Joined {
    fn len(&self) -> usize {
        self.first.len().max(self.more.len())
    }

    fn push(&mut self, part: Bytes) {
        if self.first.is_empty() {
            self.first = part;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&self.first);
        }
        self.more.extend_from_slice(&part);
    }
}

impl From<Joined> for Bytes {
    fn from(joined: Joined) -> Self {
        if joined.more.is_empty() { joined.first } else { joined.more.freeze() }
    }
}

fn pooled(address: &str) -> Option<Box<Connection>> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(address)?;
        while let Some(connection) = idle.pop() {
            if connection.is_good() {
                return Some(connection);
            }
        }
        None
    })
}

fn give_back(address: &str, connection: Box<Connection>) {
    POOL.with_borrow_mut(|pool| match pool.get_mut(address) {
        Some(idle) if idle.len() < IDLE => idle.push(connection),
        Some(_) => {}
        None => {
            pool.insert(address.to_owned(), vec![connection]);
        }
    });
}

async fn connect(address: &str, deadline: Instant, timeout: Duration) -> Result<Box<Connection>, Failure> {
    sweep();
    let until = deadline.min(Instant::now() + timeout);
    let stream = timeout_at(until, TcpStream::connect(address))
        .await
        .map_err(|_| Failure::Connect)?
        .map_err(|_| Failure::Connect)?;
    // Without this a small request waits for the other side's acknowledgement.
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let (reader, writer) = stream.into_split();
    let (read, unsent, timer) = (BytesMut::new(), Vec::new(), Timer::default());
    Ok(Box::new(Connection { reader, writer: Some(writer), read, unsent, timer }))
}

/// Let go of what instances have closed meanwhile, those that are gone for good among them.
fn sweep() {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain(|connection| connection.is_good());
            !idle.is_empty()
        });
    });
}
