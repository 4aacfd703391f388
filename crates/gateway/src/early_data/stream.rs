//! A TCP client's connection that starts with early data and continues after the handshake.
//!
//! For one round trip, reads return early data, and writes are encrypted with the keys that the server
//! already has (RFC 8446, section 4.4.4). The reader of requests may stop reading meanwhile: because the
//! first request has to wait for the end of the handshake, or because enough requests are pending. Therefore
//! a separate task, `follow`, reads from the client until the handshake has completed or failed. rustls
//! limits the amount of early data, so the task needs no backpressure.

use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use atomic_waker::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::Handshake;
use crate::client::{Client, Ending};
use crate::io::Keeping;
use crate::secure::{SecureStream, Session};

pub struct EarlyStream {
    state: State,
    /// Woken by early data and by the end of the handshake.
    reader: Arc<AtomicWaker>,
}

enum State {
    UnderWay(Arc<Flight>, Follower),
    Settled(SecureStream),
    Failed,
}

/// The task that drives a handshake. Dropping the connection aborts it; otherwise it would keep the socket
/// open.
struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The state of a connection, for reads and writes.
enum Phase<'a> {
    Early(&'a Flight),
    Settled(&'a mut SecureStream),
}

/// A handshake under way, shared with the follower. It is over when the follower has dropped its reference.
struct Flight {
    io: TcpStream,
    session: Mutex<Box<Session>>,
}

impl Flight {
    fn session(&self) -> MutexGuard<'_, Box<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Read until the handshake is complete.
    async fn finish(&self, reader: &AtomicWaker) -> io::Result<()> {
        while self.session().is_handshaking() {
            self.io.readable().await?;
            self.session().receive(&self.io)?;
            reader.wake();
        }
        Ok(())
    }
}

impl EarlyStream {
    /// Serve `session` while the handshake completes. If it fails or is not complete by `deadline`, the
    /// connection is cut.
    pub fn begin(
        session: Box<Session>,
        io: TcpStream,
        client: Arc<Client>,
        deadline: Instant,
    ) -> (Self, Handshake) {
        let (tell, handshake) = Handshake::begun();
        let flight = Arc::new(Flight { io, session: Mutex::new(session) });
        let reader = Arc::<AtomicWaker>::default();
        let following = follow(Arc::clone(&flight), Arc::clone(&reader), client, deadline, tell);
        let follower = Follower(tokio::spawn(following).abort_handle());
        (Self { state: State::UnderWay(flight, follower), reader }, handshake)
    }

    /// Return the current phase, after switching to `Settled` if the handshake has ended.
    ///
    /// # Errors
    /// The handshake has failed.
    fn phase(&mut self) -> io::Result<Phase<'_>> {
        if let State::UnderWay(..) = self.state
            && let State::UnderWay(flight, follower) = mem::replace(&mut self.state, State::Failed)
        {
            self.state = match Arc::try_unwrap(flight) {
                Ok(Flight { io, session }) => {
                    let session = session.into_inner().unwrap_or_else(PoisonError::into_inner);
                    match session.is_handshaking() {
                        true => State::Failed,
                        false => State::Settled(SecureStream::new(io, session)),
                    }
                }
                Err(flight) => State::UnderWay(flight, follower),
            };
        }
        match &mut self.state {
            State::UnderWay(flight, _) => Ok(Phase::Early(flight)),
            State::Settled(stream) => Ok(Phase::Settled(stream)),
            State::Failed => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Register for early data and for the end of the handshake.
    fn watch(&self, cx: &Context<'_>) {
        if let State::UnderWay(..) = self.state {
            self.reader.register(cx.waker());
        }
    }
}

async fn follow(
    flight: Arc<Flight>,
    reader: Arc<AtomicWaker>,
    client: Arc<Client>,
    deadline: Instant,
    tell: watch::Sender<bool>,
) {
    let finished = timeout_at(deadline, flight.finish(&reader)).await;
    drop(flight);
    if matches!(finished, Ok(Ok(()))) {
        tell.send_replace(true);
    } else {
        client.end(Ending::Cut);
    }
    reader.wake();
}

impl Keeping for EarlyStream {
    fn keeps(&self) -> bool {
        match &self.state {
            State::UnderWay(flight, _) => flight.session().keeps(),
            State::Settled(stream) => stream.keeps(),
            State::Failed => false,
        }
    }
}

impl AsyncRead for EarlyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.watch(cx);
        match self.phase()? {
            Phase::Early(flight) if flight.session().read(buffer) => Poll::Ready(Ok(())),
            Phase::Early(_) => Poll::Pending,
            Phase::Settled(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for EarlyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(part)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.phase()? {
            Phase::Early(flight) => flight.session().poll_write(&flight.io, cx, parts),
            Phase::Settled(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.phase()? {
            Phase::Early(flight) => flight.session().poll_send(&flight.io, cx),
            Phase::Settled(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Wait for the end of the handshake before closing: a client whose handshake is cut short treats it as
    /// failed and discards the responses.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(cx);
        match self.phase()? {
            Phase::Early(flight) => {
                ready!(flight.session().poll_send(&flight.io, cx))?;
                Poll::Pending
            }
            Phase::Settled(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
