//! Writing to clients: what is small leaves in one piece.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::Client;

/// Up to this size a copy costs less than a gathering write (`writev`) does over a plain one, and
/// over TLS it makes one record of what would be two.
const SMALL: usize = 4 * 1024;

/// A client's connection, on which the head and the body of a small answer are written as one.
pub struct ClientIo<I> {
    inner: TokioIo<I>,
    /// Read before hyper was there.
    first: Bytes,
    buffer: Vec<u8>,
    client: Arc<Client>,
}

impl<I> ClientIo<I> {
    pub fn new(inner: I, first: Bytes, client: Arc<Client>) -> Self {
        Self { inner: TokioIo::new(inner), first, buffer: Vec::new(), client }
    }

    /// The connection alone, and what is still to be read before what comes on it.
    pub fn into_parts(self) -> (I, Bytes) {
        (self.inner.into_inner(), self.first)
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

impl<I: AsyncWrite + Unpin> Write for ClientIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, part);
        self.client.set_blocked(written.is_pending());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, buffer, client, .. } = self.get_mut();
        let written = if parts.iter().map(|part| part.len()).sum::<usize>() > SMALL {
            Pin::new(inner).poll_write_vectored(cx, parts)
        } else {
            buffer.clear();
            for part in parts {
                buffer.extend_from_slice(part);
            }
            Pin::new(inner).poll_write(cx, buffer)
        };
        client.set_blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
