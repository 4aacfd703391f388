//! A tunnel over an HTTP/2 stream (extended CONNECT, RFC 8441).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Passes the stream of a tunnel to the requester once the response has been sent.
#[derive(Clone)]
pub struct Handover(Arc<Mutex<Option<oneshot::Receiver<Tunnelled>>>>);

impl Handover {
    pub fn new() -> (oneshot::Sender<Tunnelled>, Self) {
        let (give, given) = oneshot::channel();
        (give, Self(Arc::new(Mutex::new(Some(given)))))
    }

    /// The stream, or `None` if the client is gone before the response.
    pub async fn take(self) -> Option<Tunnelled> {
        let given = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        given?.await.ok()
    }
}

/// A stream as a bidirectional byte stream.
pub struct Tunnelled {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received but not yet read.
    unread: Bytes,
    ended: bool,
}

impl Tunnelled {
    pub fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, unread: Bytes::new(), ended: false }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Tunnelled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(part) => self.unread = part.map_err(|_| reset())?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        // Fails only if the stream is closed.
        let _ = self.receive.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        if part.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(part.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(|_| reset())?,
                None => return Poll::Ready(Err(reset())),
            };
        }
        let length = self.send.capacity().min(part.len());
        self.send.send_data(Bytes::copy_from_slice(&part[..length]), false).map_err(|_| reset())?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // done by the connection's task
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            self.send.send_data(Bytes::new(), true).map_err(|_| reset())?;
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}
