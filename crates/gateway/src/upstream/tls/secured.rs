//! A TLS connection that detects whether the instance accepts the gateway's certificate.
//!
//! In TLS 1.3 the handshake is complete for the client before the server has checked the client certificate.
//! A server that rejects it sends an alert instead of the first response; it has read none of the request. It
//! may close the connection immediately, so that a write fails before the alert is read.

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
    /// Whether the instance has sent data.
    heard: bool,
    /// Whether the failure has been counted.
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

    /// Classify an error before any data was received: `ConnectionRefused` if the instance rejected the
    /// gateway's certificate.
    fn before_all(&mut self, error: io::Error) -> io::Error {
        let refused = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(Error::AlertReceived(alert)) => reason::is_about_clients(*alert),
            _ => false,
        };
        if !refused {
            // The instance may have read the request, so the error kind stays.
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

    /// Classify an error of a write.
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
