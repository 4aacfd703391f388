//! An HTTP/1.1 connection to an instance: writes a request, reads its response.
//!
//! A connection has no task of its own: the task that awaits the response reads it. Before an idle connection
//! is reused, it is checked for having been closed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use crate::headers::{self, Added, Sent};
use crate::hints::Hints;
use crate::http1::{Framing, Head, Malformed, head};
use crate::respond::Body;
use crate::timer::Timer;
use crate::tunnel::{self, Upgrade};
use crate::upload::{CarriedOn, Sending, Stopped, Stream, Upload};
use crate::upstream::stream::Stream as Wire;
use crate::upstream::{Failure, Reader, Writer};

/// A body up to this size is written together with the head.
const TOGETHER: usize = 16 * 1024;
const READ: usize = 8 * 1024;
/// The maximum number of interim responses (1xx).
const INTERIM: u32 = 16;
/// How long to wait for `100 Continue`. Many servers never send it, and RFC 9110, section 10.1.1 advises
/// against waiting indefinitely.
const OFFER_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to an instance. Between two exchanges it has no unread data.
pub struct Connection {
    reader: Reader,
    /// `None` while another task is still sending a request body whose response has begun.
    pub writer: Option<Writer>,
    read: BytesMut,
    /// The head of a request, together with a small body.
    unsent: Vec<u8>,
    pub timer: Timer,
    /// When it reaches its maximum age.
    pub end: Instant,
    /// The instance's keep-alive timeout, if announced.
    pub waits: Option<Duration>,
}

impl Connection {
    pub fn new(stream: Wire, end: Instant) -> Box<Self> {
        let (reader, writer) = stream.into_split();
        let (read, unsent, timer) = (BytesMut::new(), Vec::new(), Timer::default());
        Box::new(Self { reader, writer: Some(writer), read, unsent, timer, end, waits: None })
    }

    /// Encode a head, with the body if it is small; returns the rest of the body.
    pub fn write<'a>(
        &mut self,
        parts: &Parts,
        added: &Added<'_>,
        sent: Sent<'_>,
        body: &'a [u8],
    ) -> &'a [u8] {
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

    /// Send a request and read the head of its response.
    pub async fn ask(
        &mut self,
        method: &Method,
        upgrade: Option<&Upgrade>,
        mut body: &[u8],
        hints: Option<Hints<'_>>,
        deadline: Instant,
    ) -> Result<Head, Failure> {
        let asked_for_head = *method == Method::HEAD;
        let (mut sent, mut interim, mut broken) = (0, 0, false);
        let asked = self.until(deadline, |connection, cx| {
            // An instance may respond, and even close, before it has read the whole request.
            let done = connection.poll_send(&mut sent, &mut body, cx);
            broken = matches!(done, Poll::Ready(Err(_)));
            loop {
                let mut head = ready!(connection.poll_head(asked_for_head, upgrade, &mut interim, cx))?;
                if !head.status.is_informational() || head.upgrade.is_some() {
                    head.reusable &= matches!(done, Poll::Ready(Ok(())));
                    connection.waits = head.waits;
                    return Poll::Ready(Ok(head));
                }
                if let Some(hints) = hints {
                    hints.tell(head.status, &head.headers);
                }
            }
        });
        match asked.await {
            Err(Failure::Unknown) if broken && sent == 0 => Err(self.unsent()),
            asked => asked,
        }
    }

    /// How to classify a failure to write any byte of a request. On a plain connection nothing was sent; TLS
    /// does not tell whether it has written something.
    fn unsent(&self) -> Failure {
        if matches!(self.writer, Some(Writer::Plain(_))) { Failure::Refused } else { Failure::Unknown }
    }

    /// The same for a streamed body. If the response's head arrives before the end of the body, is no error
    /// and leaves the connection reusable, the unsent rest is returned with it.
    pub async fn ask_streaming(
        &mut self,
        method: &Method,
        stream: &mut Stream,
        sent: Sent<'_>,
        hints: Option<Hints<'_>>,
        timeout: Duration,
    ) -> Result<(Head, Option<Sending>), Failure> {
        let asked_for_head = *method == Method::HEAD;
        let mut interim = 0;
        let mut sending = Sending::new(std::mem::take(&mut self.unsent), sent.length.is_none());
        let mut offered_until = sent.offered.then(|| Instant::now() + OFFER_TIMEOUT.min(timeout));
        let (mut writes, mut until, mut broken) = (0, None, false);
        let asked = poll_fn(|cx| {
            loop {
                let done = match &mut self.writer {
                    Some(writer) if offered_until.is_some() => {
                        sending.poll_flush(writer, cx).map_ok(|()| false)
                    }
                    Some(writer) => sending.poll(stream, writer, cx).map_ok(|()| true),
                    None => Poll::Ready(Err(Stopped::Instance)),
                };
                broken = matches!(done, Poll::Ready(Err(Stopped::Instance)));
                if let Poll::Ready(Err(Stopped::Client(fault))) = done {
                    return Poll::Ready(Err(Failure::Client(fault)));
                }
                match self.poll_head(asked_for_head, None, &mut interim, cx)? {
                    Poll::Ready(head) if head.status.is_informational() => {
                        if head.status == StatusCode::CONTINUE {
                            offered_until = None;
                        } else if let Some(hints) = hints {
                            hints.tell(head.status, &head.headers);
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
                    // The client is being waited for, or the instance accepts the body: reset the timeout.
                    (writes, until) = (sending.writes, None);
                }
                if sending.waits_for_client {
                    return Poll::Pending;
                }
                let until = *until.get_or_insert_with(|| Instant::now() + timeout);
                return self.timer.poll_late(until, cx).map(|()| Err(Failure::Late));
            }
        });
        let (mut head, done) = match asked.await {
            Err(Failure::Unknown) if broken && sending.writes == 0 => return Err(self.unsent()),
            asked => asked?,
        };
        let finished = matches!(done, Poll::Ready(Ok(true)));
        let wanted = head.status.as_u16() < 400 && head.reusable && done.is_pending();
        head.reusable &= finished || wanted;
        self.waits = head.waits;
        Ok((head, wanted.then_some(sending)))
    }

    /// Turn the connection into a tunnel.
    pub fn tunnel(self, upgrade: &Upgrade, headers: HeaderMap) -> Result<Response<Body>, Failure> {
        let writer = self.writer.ok_or(Failure::Unknown)?;
        Ok(upgrade.tunnel(headers, self.reader, writer, self.read))
    }

    /// Send the rest of a body in a task of its own, while the response is read.
    pub fn carry_on(&mut self, sending: Sending, body: &mut Upload) -> Option<CarriedOn> {
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
        Pin::new(writer).poll_flush(cx)
    }

    /// Read the head of the response: final, interim (1xx), or 101 if the upgrade was requested.
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
                    Ok(0) => break,
                    // Over TLS, the instance rejected the gateway's certificate before it read the request.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        return Poll::Ready(Err(Failure::Refused));
                    }
                    Err(_) => break,
                    Ok(_) => {}
                },
                Err(_) => break,
            }
        }
        Poll::Ready(Err(Failure::Unknown))
    }

    /// The next part of the response's body, then the trailers, then `None`.
    pub fn poll_part(
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

    /// Poll `step` until it is ready; `Late` after the deadline.
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

    /// Whether no byte of a response was received.
    pub fn has_said_nothing(&self) -> bool {
        self.read.is_empty()
    }

    /// Whether an idle connection is usable: nothing was received on it, not even its end.
    pub fn is_good(&mut self) -> bool {
        self.read.is_empty() && self.reader.is_silent()
    }
}

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        io::ErrorKind::InvalidData.into()
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::header::HeaderValue;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_request_of_which_nothing_could_be_written_was_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let later = Instant::now() + Duration::from_secs(20);
        let mut connection = Connection::new(Wire::Plain(stream), later);
        let (accepted, _) = listener.accept().await.unwrap();
        // Closing sends a reset.
        accepted.set_zero_linger().unwrap();
        drop(accepted);
        while connection.is_good() {
            tokio::task::yield_now().await;
        }
        let value = HeaderValue::from_static("x");
        let added = Added {
            host: &value,
            client: &value,
            request_id: &value,
            bearer: None,
            traceparent: None,
            early: false,
            hooked: &[],
        };
        let (parts, ()) = Request::post("/x").body(()).unwrap().into_parts();
        let sent = Sent { length: Some(0), offered: false, upgrade: None };
        connection.write(&parts, &added, sent, b"");
        let asked = connection.ask(&Method::POST, None, b"", None, later).await;
        assert_eq!(asked.err(), Some(Failure::Refused));
    }
}
