//! A client's connection over TCP from its early data on, until its handshake is complete, and afterwards.
//!
//! For one round trip what is read is early data, and what is written goes out under the keys that the
//! server has already (RFC 8446, section 4.4.4). Whoever reads requests may wait meanwhile: for the end of the
//! handshake, if one that may not pass before is first in line, or because enough of them have come. So what
//! the client sends is read by a task of its own, `follow`, which ends with the handshake, well or not.
//! rustls holds early data up to what it allows for, so it needs no reader for that.
//!
//! Once that task is gone, nothing here is left but what tokio-rustls makes of the session.

use std::io::{self, IoSlice, Read, Write};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use atomic_waker::AtomicWaker;
use bytes::{Buf, Bytes};
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::Handshake;
use super::accept::{receive, send};
use crate::client::{Client, Ending};
use crate::io::Keeping;

pub struct EarlyStream {
    state: State,
    /// Early data that had not been read when the handshake was complete.
    unread: Bytes,
    /// Who is woken by early data and by the end of the handshake.
    reader: Arc<AtomicWaker>,
}

enum State {
    UnderWay(Arc<Flight>, Follower),
    /// Complete, and what rustls had to say is still on its way.
    Settling(Box<Accept<TcpStream>>),
    Settled(Box<TlsStream<TcpStream>>),
    Failed,
}

/// The task that sees to a handshake. A connection that is given up takes it along, or it would hold the
/// socket.
struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a connection is to whoever reads and writes.
enum Phase<'a> {
    Early(&'a Flight),
    Settled(&'a mut TlsStream<TcpStream>, &'a mut Bytes),
}

/// A handshake under way, of which its follower has a part. It is over when that is gone.
struct Flight {
    io: TcpStream,
    session: Mutex<ServerConnection>,
    tls: TlsAcceptor,
}

impl Flight {
    fn session(&self) -> MutexGuard<'_, ServerConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_send(&self, session: &mut ServerConnection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while send(session, &self.io)? {
            ready!(self.io.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Have something written, which `write` gives to rustls.
    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&mut ServerConnection) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let mut session = self.session();
        loop {
            let written = write(&mut session)?;
            let sent = self.poll_send(&mut session, cx)?;
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
            // rustls was full.
            ready!(sent);
        }
    }

    /// Read until the handshake is complete.
    async fn finish(&self, reader: &AtomicWaker) -> io::Result<()> {
        while self.session().is_handshaking() {
            self.io.readable().await?;
            receive(&mut self.session(), &self.io)?;
            reader.wake();
        }
        Ok(())
    }
}

impl EarlyStream {
    /// Serve what `session` has taken, and see to the end of the handshake. If it fails, or isn't complete by
    /// `deadline`, the client is cut off.
    pub fn begin(
        session: ServerConnection,
        io: TcpStream,
        tls: TlsAcceptor,
        client: Arc<Client>,
        deadline: Instant,
    ) -> (Self, Handshake) {
        let (tell, handshake) = Handshake::begun();
        let flight = Arc::new(Flight { io, session: Mutex::new(session), tls });
        let reader = Arc::<AtomicWaker>::default();
        let following = follow(Arc::clone(&flight), Arc::clone(&reader), client, deadline, tell);
        let follower = Follower(tokio::spawn(following).abort_handle());
        (Self { state: State::UnderWay(flight, follower), unread: Bytes::new(), reader }, handshake)
    }

    /// What the connection is now.
    ///
    /// # Errors
    /// Its handshake has failed.
    fn poll_phase(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Phase<'_>>> {
        if let State::UnderWay(..) = self.state
            && let State::UnderWay(flight, follower) = mem::replace(&mut self.state, State::Failed)
        {
            self.state = match Arc::try_unwrap(flight) {
                Ok(flight) => self.settle(flight)?,
                Err(flight) => State::UnderWay(flight, follower),
            };
        }
        if let State::Settling(accept) = &mut self.state {
            let settled = ready!(Pin::new(accept).poll(cx));
            self.state = State::Failed;
            self.state = State::Settled(Box::new(settled?));
        }
        Poll::Ready(match &mut self.state {
            State::UnderWay(flight, _) => Ok(Phase::Early(flight)),
            State::Settled(stream) => Ok(Phase::Settled(stream, &mut self.unread)),
            State::Settling(_) | State::Failed => Err(io::ErrorKind::ConnectionAborted.into()),
        })
    }

    fn settle(&mut self, flight: Flight) -> io::Result<State> {
        let Flight { io, session, tls } = flight;
        let mut session = session.into_inner().unwrap_or_else(PoisonError::into_inner);
        if session.is_handshaking() {
            return Ok(State::Failed);
        }
        let mut unread = Vec::new();
        if let Some(mut early) = session.early_data() {
            early.read_to_end(&mut unread)?;
        }
        self.unread = unread.into();
        Ok(State::Settling(Box::new(tls.accept_with(io, |fresh| *fresh = session))))
    }

    /// Be woken by the end of the handshake, and by early data.
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
            State::UnderWay(flight, _) => flight.session().wants_write(),
            State::Settling(_) => true,
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
        match ready!(self.poll_phase(cx))? {
            Phase::Early(flight) => {
                let mut session = flight.session();
                let Some(mut early) = session.early_data() else { return Poll::Pending };
                let read = early.read(buffer.initialize_unfilled())?;
                buffer.advance(read);
                if read == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
            }
            Phase::Settled(_, unread) if !unread.is_empty() => {
                let length = unread.len().min(buffer.remaining());
                buffer.put_slice(&unread[..length]);
                unread.advance(length);
                Poll::Ready(Ok(()))
            }
            Phase::Settled(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for EarlyStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_phase(cx))? {
            Phase::Early(_) if part.is_empty() => Poll::Ready(Ok(0)),
            Phase::Early(flight) => flight.poll_write(cx, |session| session.writer().write(part)),
            Phase::Settled(stream, _) => Pin::new(stream).poll_write(cx, part),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_phase(cx))? {
            Phase::Early(_) if parts.iter().all(|part| part.is_empty()) => Poll::Ready(Ok(0)),
            Phase::Early(flight) => flight.poll_write(cx, |session| session.writer().write_vectored(parts)),
            Phase::Settled(stream, _) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_phase(cx))? {
            Phase::Early(flight) => flight.poll_send(&mut flight.session(), cx),
            Phase::Settled(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Our side ends when the handshake has: a client whose handshake is cut short takes that for a failure,
    /// and what it was answered for none.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(cx);
        match ready!(self.poll_phase(cx))? {
            Phase::Early(flight) => {
                ready!(flight.poll_send(&mut flight.session(), cx))?;
                Poll::Pending
            }
            Phase::Settled(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
