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
use hyper::header;
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use rustc_hash::FxHashMap;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::io::poll_read_buf;

use crate::headers::{self, Added, text};
use crate::http1::{Framing, Head, Malformed, head};
use crate::respond::Body;

/// Idle connections kept to one address: as many as a service has requests under way at most, if
/// nothing else is said. With fewer, a load between the two opens and closes one for each request.
const IDLE: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
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
}

/// A request as an instance gets it.
pub struct Outgoing<'a> {
    pub parts: &'a Parts,
    pub added: Added<'a>,
    pub body: &'a [u8],
}

/// Send one request to `address` and wait for its answer, until `now + timeout`; for each further
/// part of one that passes through as long again, or as long as events may be apart.
pub async fn exchange(
    address: &str,
    request: &Outgoing<'_>,
    now: Instant,
    timeout: Duration,
) -> Result<Response<Body>, Failure> {
    let deadline = now + timeout;
    let mut connection = match pooled(address) {
        Some(connection) => connection,
        None => Box::pin(connect(address, deadline)).await?,
    };
    let Head { status, headers, mut framing, reusable } = connection.ask(request, deadline).await?;
    let mut read = Joined::default();
    let events = text(&headers, header::CONTENT_TYPE).starts_with("text/event-stream");
    let timeout = if events { EVENT_TIMEOUT } else { timeout };
    let body = loop {
        if events || read.len().max(usize::try_from(framing.at_least()).unwrap_or(usize::MAX)) > WHOLE {
            let (read, address) = (read.into(), reusable.then(|| address.to_owned()));
            let connection = Some(connection);
            let rest = Rest { read, framing, connection, address, timeout, until: None, kept: Vec::new() };
            break Body::Rest(Box::new(rest));
        }
        let Some(part) = connection.part(&mut framing, deadline).await? else {
            if reusable {
                give_back(address, connection);
            }
            break Body::Whole(read.into());
        };
        read.push(part);
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// A connection to an instance; between two exchanges there is nothing unread on it.
struct Connection {
    stream: TcpStream,
    read: BytesMut,
    /// The head of a request, and its body if that is small.
    unsent: Vec<u8>,
    /// Fires no later than the deadline of what is waited for; mostly that of an earlier exchange,
    /// since setting a timer for each would cost more than one needless look at the clock.
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    /// Send a request, and read the head of its answer.
    async fn ask(&mut self, request: &Outgoing<'_>, deadline: Instant) -> Result<Head, Failure> {
        let mut body = request.write(&mut self.unsent);
        let asked_for_head = request.parts.method == Method::HEAD;
        let (mut sent, mut interim) = (0, 0);
        self.until(deadline, |connection, cx| {
            // An instance may answer, and even close, before it has read all of a request.
            let done = connection.poll_send(&mut sent, &mut body, cx);
            loop {
                match head(&mut connection.read, asked_for_head) {
                    Ok(Some(head)) if head.status.is_informational() => {
                        interim += 1;
                        if interim > INTERIM || head.status == StatusCode::SWITCHING_PROTOCOLS {
                            break;
                        }
                    }
                    Ok(Some(mut head)) => {
                        head.reusable &= matches!(done, Poll::Ready(Ok(())));
                        return Poll::Ready(Ok(head));
                    }
                    Ok(None) => match ready!(connection.poll_read(cx)) {
                        Ok(0) | Err(_) => break,
                        Ok(_) => {}
                    },
                    Err(_) => break,
                }
            }
            Poll::Ready(Err(Failure::Unknown))
        })
        .await
    }

    fn poll_send(
        &mut self,
        sent: &mut usize,
        body: &mut &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while *sent < self.unsent.len() {
            *sent += ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent[*sent..]))?;
        }
        while !body.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, body))?;
            *body = &body[written..];
        }
        Poll::Ready(Ok(()))
    }

    /// The next part of the answer's body, or nothing at its end.
    async fn part(&mut self, framing: &mut Framing, deadline: Instant) -> Result<Option<Bytes>, Failure> {
        self.until(deadline, |connection, cx| connection.poll_part(framing, cx).map_err(|_| Failure::Unknown))
            .await
    }

    fn poll_part(&mut self, framing: &mut Framing, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
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
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read)
    }

    /// What `step` leads to, or `Late` after the deadline.
    async fn until<T>(
        &mut self,
        deadline: Instant,
        mut step: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        poll_fn(|cx| match step(self, cx) {
            Poll::Pending => self.poll_late(deadline, cx).map(|()| Err(Failure::Late)),
            ready => ready,
        })
        .await
    }

    fn poll_late(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Whether an idle connection is still good: nothing has come on it, not even its end.
    fn is_good(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        self.read.is_empty() && matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl<'a> Outgoing<'a> {
    /// Write the head, and the body along with it if it is small; returns what remains to be sent.
    fn write(&self, out: &mut Vec<u8>) -> &'a [u8] {
        let Self { parts, added, body } = self;
        out.clear();
        out.extend_from_slice(parts.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(parts.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        headers::write(out, &parts.method, &parts.headers, added, body.len());
        out.extend_from_slice(b"\r\n");
        if body.len() > TOGETHER {
            return body;
        }
        out.extend_from_slice(body);
        &[]
    }
}

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        io::ErrorKind::InvalidData.into()
    }
}

/// The rest of a large answer, on its way through.
pub struct Rest {
    read: Bytes,
    framing: Framing,
    connection: Option<Box<Connection>>,
    /// Where the connection belongs when all is read, if it is good for more.
    address: Option<String>,
    timeout: Duration,
    /// Until when the next part must be here, while one is waited for.
    until: Option<Instant>,
    /// What ends with the last part.
    kept: Vec<Box<dyn Any + Send>>,
}

impl Rest {
    /// Keep something until the last part is through.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        self.kept.push(Box::new(kept));
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let part = match connection.poll_part(&mut self.framing, cx) {
            Poll::Ready(part) => part,
            Poll::Pending => {
                let until = *self.until.get_or_insert_with(|| Instant::now() + self.timeout);
                ready!(connection.poll_late(until, cx));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        self.until = None;
        if self.framing == Framing::Done
            && let (Some(address), Some(connection)) = (self.address.take(), self.connection.take())
        {
            give_back(&address, connection);
        }
        Poll::Ready(part.transpose().map(|part| part.map(Frame::data)))
    }

    pub fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.framing == Framing::Done
    }

    pub fn size_hint(&self) -> SizeHint {
        let known = self.read.len() as u64 + self.framing.at_least();
        match self.framing {
            Framing::Length(_) | Framing::Done => SizeHint::with_exact(known),
            Framing::Chunked(_) | Framing::UntilClose => {
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

async fn connect(address: &str, deadline: Instant) -> Result<Box<Connection>, Failure> {
    sweep();
    let until = deadline.min(Instant::now() + CONNECT_TIMEOUT);
    let stream = timeout_at(until, TcpStream::connect(address))
        .await
        .map_err(|_| Failure::Connect)?
        .map_err(|_| Failure::Connect)?;
    // Without this a small request waits for the other side's acknowledgement.
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let timer = Box::pin(sleep_until(deadline));
    Ok(Box::new(Connection { stream, read: BytesMut::new(), unsent: Vec::new(), timer }))
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
