//! Buffered writes to clients; `linger.rs` closes the connection.

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

/// Up to this size, copying into one buffer costs less than a gathering write (`writev`), and over TLS it
/// makes one record instead of two.
const SMALL: usize = 4 * 1024;

/// A connection that may buffer written bytes.
pub trait Keeping {
    /// Whether written bytes are still buffered.
    fn keeps(&self) -> bool;
}

impl Keeping for TcpStream {
    fn keeps(&self) -> bool {
        false
    }
}

/// A client connection that writes the head and the body of a small answer together.
pub struct ClientIo<I> {
    inner: TokioIo<I>,
    /// Bytes read before hyper took over.
    first: Bytes,
    buffer: Vec<u8>,
    /// Interim answers, written before hyper's next bytes (`Client::write_early`).
    early: Bytes,
    client: Arc<Client>,
    /// Set once our side is shut down.
    linger: Option<Linger>,
}

impl<I> ClientIo<I> {
    pub fn new(inner: I, first: Bytes, client: Arc<Client>) -> Self {
        let inner = TokioIo::new(inner);
        Self { inner, first, buffer: Vec::new(), early: Bytes::new(), client, linger: None }
    }

    /// The bare connection, and the bytes to be read before it.
    pub fn into_parts(self) -> (I, Bytes) {
        (self.inner.into_inner(), self.first)
    }
}

impl<I: Keeping> ClientIo<I> {
    /// Record whether written bytes are still unsent.
    fn look(&self, pending: bool) {
        self.client.set_blocked(pending || self.inner.inner().keeps());
    }
}

impl<I: AsyncWrite + Keeping + Unpin> ClientIo<I> {
    /// Write queued interim answers. hyper flushes at the end of each poll, only after it has written
    /// everything it has, so bytes written then never land inside an answer.
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
                return Poll::Ready(Ok(())); // what the client still sends is for the instance
            }
        }
        linger.get_or_insert_with(Linger::new).poll(inner.inner_mut(), cx).map(Ok)
    }
}
