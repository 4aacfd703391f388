//! Writing to clients without TLS: what is small leaves in one piece.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Up to this size a copy costs less than a gathering write (`writev`) does over a plain one.
const SMALL: usize = 4 * 1024;

/// A connection on which the head and the body of a small answer are written as one.
pub struct Together<I> {
    inner: I,
    buffer: Vec<u8>,
}

impl<I> Together<I> {
    pub fn new(inner: I) -> Self {
        Self { inner, buffer: Vec::new() }
    }
}

impl<I: Read + Unpin> Read for Together<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: Write + Unpin> Write for Together<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, part)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, buffer } = self.get_mut();
        if parts.iter().map(|part| part.len()).sum::<usize>() > SMALL {
            return Pin::new(inner).poll_write_vectored(cx, parts);
        }
        buffer.clear();
        for part in parts {
            buffer.extend_from_slice(part);
        }
        Pin::new(inner).poll_write(cx, buffer)
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
