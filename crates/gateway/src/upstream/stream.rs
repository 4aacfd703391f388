//! A byte stream to an instance, with or without TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::tls::Secured;

pub enum Stream {
    Plain(TcpStream),
    Secured(Box<Secured>),
}

impl Stream {
    #[cfg(target_os = "linux")]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secured(secured) => secured.socket(),
        }
    }

    /// Split into two halves that can be polled independently.
    pub fn into_split(self) -> (Reader, Writer) {
        match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Plain(reader), Writer::Plain(writer))
            }
            Self::Secured(secured) => {
                let (reader, writer) = split(*secured);
                (Reader::Secured(reader), Writer::Secured(writer))
            }
        }
    }
}

/// The read half.
pub enum Reader {
    Plain(OwnedReadHalf),
    Secured(ReadHalf<Secured>),
}

impl Reader {
    /// Whether there is nothing to read, not even the end of the stream. TLS messages that carry no data are
    /// processed.
    pub fn is_silent(&mut self) -> bool {
        match self {
            Self::Plain(reader) => matches!(
                reader.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock
            ),
            Self::Secured(reader) => {
                let mut byte = [0];
                // The next request on this connection registers its own waker.
                let mut nobody = Context::from_waker(Waker::noop());
                Pin::new(reader).poll_read(&mut nobody, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }
}

/// The write half. Over TLS, data is certain to be sent only after a flush.
pub enum Writer {
    Plain(OwnedWriteHalf),
    Secured(WriteHalf<Secured>),
}

/// Forward a call to the variant.
macro_rules! either {
    ($self:ident, $call:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).$call($($argument),*),
            Self::Secured(secured) => Pin::new(secured).$call($($argument),*),
        }
    };
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read(cx, buffer))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read(cx, buffer))
    }
}

/// `AsyncWrite` for `Stream` and `Writer`.
macro_rules! writes {
    ($kind:ty) => {
        impl AsyncWrite for $kind {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                part: &[u8],
            ) -> Poll<io::Result<usize>> {
                either!(self, poll_write(cx, part))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                parts: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                either!(self, poll_write_vectored(cx, parts))
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    Self::Plain(plain) => plain.is_write_vectored(),
                    Self::Secured(secured) => secured.is_write_vectored(),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                either!(self, poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                either!(self, poll_shutdown(cx))
            }
        }
    };
}

writes!(Stream);
writes!(Writer);
