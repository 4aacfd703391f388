//! A connection over TLS, which takes note of whether the other side takes it for one.
//!
//! In TLS 1.3 a client is through with the handshake before the server has looked at its certificate. A
//! server that doesn't like it says so in place of the first answer; nothing that was sent was read then.
//! It may end the connection at once, so that whoever is about to write hears of that end first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{Error, HandshakeKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::reason::{self, Surroundings};
use super::record::Record;

pub struct Secured {
    stream: TlsStream<TcpStream>,
    record: Arc<Record>,
    surroundings: Arc<Surroundings>,
    instance: Box<str>,
    /// Whether the other side has said something.
    heard: bool,
    /// Whether it was noted that it would not take the gateway.
    noted: bool,
}

impl Secured {
    pub fn new(
        stream: TlsStream<TcpStream>,
        record: Arc<Record>,
        surroundings: Arc<Surroundings>,
        instance: &str,
    ) -> Self {
        Self { stream, record, surroundings, instance: instance.into(), heard: false, noted: false }
    }

    #[cfg(target_os = "linux")]
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref().0
    }

    /// An error before anything was heard, of the kind `ConnectionRefused` if the other side doesn't take
    /// the gateway for who it lets in.
    fn before_all(&mut self, error: io::Error) -> io::Error {
        let refused = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(Error::AlertReceived(alert)) => reason::is_about_clients(*alert),
            _ => false,
        };
        if !refused {
            // It may have read what was sent, so the error stays what it is.
            if let Some(reason) = reason::of_reset(&error, &self.surroundings) {
                self.note(&reason);
            }
            return error;
        }
        let reason = reason::of_handshake(&error, &self.surroundings);
        self.note(&reason);
        io::Error::new(io::ErrorKind::ConnectionRefused, reason)
    }

    fn note(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.noted, true) {
            self.record.count_failed();
        }
        self.record.say(&self.instance, reason);
    }

    /// What became of something that was to be written.
    fn written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.heard { written } else { written.map_err(|error| self.before_all(error)) }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.heard {
            return read;
        }
        if let Poll::Ready(Ok(())) = read
            && buffer.filled().len() > before
        {
            self.heard = true;
            let resumed = self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            self.record.heard(&self.instance, resumed);
        }
        read.map_err(|error| self.before_all(error))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, part);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
