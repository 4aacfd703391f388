//! Buffered writes to clients; the last bytes of a connection are seen to by `linger.rs`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::linger::Linger;

/// Up to this size a copy costs less than a gathering write (`writev`) does over a plain one, and
/// over TLS it makes one record of what would be two.
const SMALL: usize = 4 * 1024;

/// A connection that may keep what was written for a while.
pub trait Keeping {
    /// Whether something that was written has not left yet.
    fn keeps(&self) -> bool;
}

impl Keeping for TcpStream {
    fn keeps(&self) -> bool {
        false
    }
}

/// A client's connection, on which the head and the body of a small answer are written as one.
pub struct ClientIo<I> {
    inner: TokioIo<I>,
    /// Read before hyper was there.
    first: Bytes,
    buffer: Vec<u8>,
    /// Written before what hyper writes (`Client::write_early`).
    early: Bytes,
    client: Arc<Client>,
    /// Since our side of it has ended.
    linger: Option<Linger>,
}

impl<I> ClientIo<I> {
    pub fn new(inner: I, first: Bytes, client: Arc<Client>) -> Self {
        let inner = TokioIo::new(inner);
        Self { inner, first, buffer: Vec::new(), early: Bytes::new(), client, linger: None }
    }

    /// The connection alone, and what is still to be read before what comes on it.
    pub fn into_parts(self) -> (I, Bytes) {
        (self.inner.into_inner(), self.first)
    }
}

impl<I: Keeping> ClientIo<I> {
    /// Remember whether the client takes what is written to it.
    fn look(&self, pending: bool) {
        self.client.set_blocked(pending || self.inner.inner().keeps());
    }
}

impl<I: AsyncWrite + Keeping + Unpin> ClientIo<I> {
    /// Write what comes first. hyper asks to flush at the end of each of its turns, and only when it has
    /// written all of its own: nothing that is written then lands within an answer.
    fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(early) = self.client.take_early() {
            self.early = [&self.early[..], &early].concat().into();
        }
        while !self.early.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.early);
            self.look(written.is_pending());
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.early.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + Unpin> Read for ClientIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Keeping + Unpin> Write for ClientIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_early(cx))?;
        let written = Pin::new(&mut self.inner).poll_write(cx, part);
        self.look(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_early(cx))?;
        let Self { inner, buffer, .. } = &mut *self;
        let written = if parts.iter().map(|part| part.len()).sum::<usize>() > SMALL {
            Pin::new(inner).poll_write_vectored(cx, parts)
        } else {
            buffer.clear();
            for part in parts {
                buffer.extend_from_slice(part);
            }
            Pin::new(inner).poll_write(cx, buffer)
        };
        self.look(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_early(cx))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.look(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, client, linger, .. } = &mut *self;
        if linger.is_none() {
            client.set_ended_by_us();
            ready!(Pin::new(&mut *inner).poll_shutdown(cx))?;
            if client.is_tunnel() {
                return Poll::Ready(Ok(())); // what comes is for the instance
            }
        }
        linger.get_or_insert_with(Linger::new).poll(inner.inner_mut(), cx).map(Ok)
    }
}
