//! Adapts quinn's streams to h3, with limits that h3 lacks.
//!
//! h3 buffers a frame completely before it processes it, whatever its declared length, even if it then
//! ignores the frame. Bytes read from a stream are therefore counted against an allowance, which only useful
//! data replenishes. (`h3-quinn`, the usual adapter, offers no place for this, and panics if a stream is
//! stopped while it is read.)

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::{Code, Settled};
use crate::server::HEADER_BYTES;

/// The maximum size of a read.
const READ: usize = 8 * 1024;
/// The allowance of a request stream beyond its body: head, trailer, frame headers and ignored frames.
const REQUEST_ALLOWANCE: usize = HEADER_BYTES + READ;
/// The initial allowance of all unidirectional streams (settings, priorities) together,
const CONTROL_ALLOWANCE: usize = 32 * 1024;
/// and its increase with each request: browsers send priorities along.
const CONTROL_ALLOWANCE_EACH: usize = 1024;

/// How many more bytes may be read before some prove useful.
pub struct Allowance(AtomicUsize);

impl Allowance {
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reset the allowance, after the head has been read.
    pub fn renew(&self) {
        self.0.store(REQUEST_ALLOWANCE, Ordering::Relaxed);
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + std::marker::Send + Sync>>;
type Bidirectional = (quinn::SendStream, quinn::RecvStream);

/// A request stream before its head has been read.
pub struct Accepted {
    pub allowance: Arc<Allowance>,
    pub settled: Settled,
    /// Whether it began before the handshake was complete.
    pub early: bool,
}

/// A connection, for h3.
pub struct Streams {
    connection: quinn::Connection,
    accepting: Boxed<Result<Bidirectional, ConnectionError>>,
    accepting_control: Boxed<Result<quinn::RecvStream, ConnectionError>>,
    opening: Opening,
    control: Arc<Allowance>,
    /// The stream that h3 returns next.
    accepted: Arc<Mutex<Option<Accepted>>>,
}

impl Streams {
    pub fn new(connection: quinn::Connection, accepted: Arc<Mutex<Option<Accepted>>>) -> Self {
        Self {
            accepting: accept(connection.clone()),
            accepting_control: accept_control(connection.clone()),
            opening: Opening::new(connection.clone()),
            connection,
            control: Arc::new(Allowance(AtomicUsize::new(CONTROL_ALLOWANCE))),
            accepted,
        }
    }
}

fn accept(connection: quinn::Connection) -> Boxed<Result<Bidirectional, ConnectionError>> {
    Box::pin(async move { connection.accept_bi().await })
}

fn accept_control(connection: quinn::Connection) -> Boxed<Result<quinn::RecvStream, ConnectionError>> {
    Box::pin(async move { connection.accept_uni().await })
}

impl quic::Connection<Bytes> for Streams {
    type RecvStream = Receive;
    type OpenStreams = Opening;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        let accepted = ready!(self.accepting_control.as_mut().poll(cx)).map_err(lost)?;
        self.accepting_control = accept_control(self.connection.clone());
        Poll::Ready(Ok(Receive { stream: accepted, allowance: Arc::clone(&self.control) }))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, ConnectionErrorIncoming>> {
        let (send, receive) = ready!(self.accepting.as_mut().poll(cx)).map_err(lost)?;
        self.accepting = accept(self.connection.clone());
        self.control.add(CONTROL_ALLOWANCE_EACH);
        let allowance = Arc::new(Allowance(AtomicUsize::new(REQUEST_ALLOWANCE)));
        let stopped = send.stopped();
        let settled = Box::pin(async move { matches!(stopped.await, Ok(None)) });
        let early = receive.is_0rtt();
        let accepted = Accepted { allowance: Arc::clone(&allowance), settled, early };
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
        let (send, receive) = (Send::new(send), Receive { stream: receive, allowance });
        Poll::Ready(Ok(Both { send, receive }))
    }

    fn opener(&self) -> Opening {
        Opening::new(self.connection.clone())
    }
}

impl quic::OpenStreams<Bytes> for Streams {
    type BidiStream = Both;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        self.opening.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        self.opening.poll_open_send(cx)
    }

    fn close(&mut self, code: h3::error::Code, reason: &[u8]) {
        self.opening.close(code, reason);
    }
}

/// Opens unidirectional streams to the client, the only kind that a server opens.
pub struct Opening {
    connection: quinn::Connection,
    control: Option<Boxed<Result<quinn::SendStream, ConnectionError>>>,
}

impl Opening {
    fn new(connection: quinn::Connection) -> Self {
        Self { connection, control: None }
    }
}

impl quic::OpenStreams<Bytes> for Opening {
    type BidiStream = Both;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        // Servers don't open bidirectional streams (RFC 9114, section 6.1).
        let reason = "a server opens no stream of a request".to_owned();
        Poll::Ready(Err(of_connection(ConnectionErrorIncoming::InternalError(reason))))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.control.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.control = None;
        let stream = opened.map_err(|error| of_connection(lost(error)))?;
        Poll::Ready(Ok(Send::new(stream)))
    }

    fn close(&mut self, code: h3::error::Code, reason: &[u8]) {
        self.connection.close(varint(code.value()), reason);
    }
}

/// Both directions of a request stream.
pub struct Both {
    send: Send,
    receive: Receive,
}

impl quic::BidiStream<Bytes> for Both {
    type SendStream = Send;
    type RecvStream = Receive;

    fn split(self) -> (Send, Receive) {
        (self.send, self.receive)
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receive.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receive.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receive.recv_id()
    }
}

/// The direction from the client.
pub struct Receive {
    stream: quinn::RecvStream,
    allowance: Arc<Allowance>,
}

impl quic::RecvStream for Receive {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let allowed = self.allowance.0.load(Ordering::Relaxed).min(READ);
        if allowed == 0 {
            let error_code = Code::ExcessiveLoad as u64;
            return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code }));
        }
        // Dropping the future loses nothing: the stream itself stores the waker.
        let read = ready!(pin!(self.stream.read_chunk(allowed, true)).poll(cx)).map_err(not_read)?;
        Poll::Ready(Ok(read.map(|chunk| {
            self.allowance.0.fetch_sub(chunk.bytes.len(), Ordering::Relaxed);
            chunk.bytes
        })))
    }

    fn stop_sending(&mut self, code: u64) {
        // Fails only if the stream is finished or the connection is lost.
        let _ = self.stream.stop(varint(code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        // Tell the client to stop sending a body that is not read, without an error (RFC 9114, section 4.1).
        let _ = self.stream.stop(varint(Code::NoError as u64));
    }
}

/// The direction to the client.
pub struct Send {
    stream: quinn::SendStream,
    unsent: Option<WriteBuf<Bytes>>,
    finished: bool,
}

impl Send {
    fn new(stream: quinn::SendStream) -> Self {
        Self { stream, unsent: None, finished: false }
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        // Otherwise quinn would finish the stream, and a truncated response would look complete.
        if !self.finished {
            let _ = self.stream.reset(varint(Code::InternalError as u64));
        }
    }
}

impl quic::SendStream<Bytes> for Send {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(unsent) = &mut self.unsent {
            while unsent.has_remaining() {
                let stream = Pin::new(&mut self.stream);
                let written = ready!(stream.poll_write(cx, unsent.chunk())).map_err(not_written)?;
                unsent.advance(written);
            }
        }
        self.unsent = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.unsent.is_some() {
            let reason = "a frame was sent before the one before it was through".to_owned();
            return Err(of_connection(ConnectionErrorIncoming::InternalError(reason)));
        }
        self.unsent = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.finished = true;
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(error.into())))
    }

    fn reset(&mut self, code: u64) {
        // Fails only if everything is already sent.
        let _ = self.stream.reset(varint(code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id(id: quinn::StreamId) -> StreamId {
    StreamId::try_from(u64::from(VarInt::from(id))).unwrap_or_else(|_| unreachable!("both count to 2^62 - 1"))
}

fn lost(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn of_connection(connection_error: ConnectionErrorIncoming) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

fn not_read(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        ReadError::ConnectionLost(error) => of_connection(lost(error)),
        error => StreamErrorIncoming::Unknown(error.into()),
    }
}

fn not_written(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(error) => of_connection(lost(error)),
        error => StreamErrorIncoming::Unknown(error.into()),
    }
}
