//! A client's TLS session and its buffers.
//!
//! rustls' buffered connections own their buffers for the lifetime of the session. Through its unbuffered
//! interface (`rustls::unbuffered`), all sessions of a thread share one buffer for the records of both
//! directions. A session itself holds only unread plaintext, an incomplete record and output that the socket
//! did not accept; most of the time, nothing.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// The largest TLS record (RFC 8446, section 5.2).
const RECORD: usize = 5 + 16 * 1024 + 256;
/// Plaintext encrypted at once and written with one call: a full record. A client that doesn't read leaves that
/// much with us.
const SEALED: usize = 16 * 1024;
/// Slices encrypted at once. Each becomes a record, with up to 22 bytes of overhead.
const PARTS: usize = 64;
/// The records of one write and the response to a key update. A client's first flight fits, too.
const ROOM: usize = 2 * SEALED;

thread_local! {
    static ROOM_OF_THREAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into());
}

pub struct Session {
    tls: UnbufferedServerConnection,
    /// Incomplete records or handshake messages.
    incoming: BytesMut,
    plaintext: BytesMut,
    outgoing: BytesMut,
    ended: bool,
}

impl Session {
    /// Boxed: a session takes about 1 KiB and moves between owners.
    pub fn new(config: Arc<ServerConfig>) -> io::Result<Box<Self>> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let (incoming, plaintext, outgoing) = Default::default();
        Ok(Box::new(Self { tls, incoming, plaintext, outgoing, ended: false }))
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    pub fn protocol(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// Whether there is unread plaintext. During the handshake this is early data.
    pub fn has_plaintext(&self) -> bool {
        !self.plaintext.is_empty()
    }

    /// Move plaintext into `buffer` as far as it fits, and return whether there was any.
    pub fn read(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let length = self.plaintext.len().min(buffer.remaining());
        buffer.put_slice(&self.plaintext[..length]);
        if length == self.plaintext.len() {
            self.plaintext = BytesMut::new();
        } else {
            self.plaintext.advance(length);
        }
        length > 0
    }

    /// Whether output is pending.
    pub fn keeps(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the client has sent `close_notify`.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Read once and process the records.
    ///
    /// # Errors
    /// The client closed the connection without `close_notify`, or violated the protocol; `send` then
    /// delivers the alert.
    pub fn poll_receive(
        &mut self,
        read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        ROOM_OF_THREAD.with_borrow_mut(|room| {
            let most = if self.is_handshaking() { ROOM } else { RECORD };
            let mut received = ReadBuf::new(&mut room[..most]);
            received.put_slice(&self.incoming);
            if received.remaining() == 0 {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            ready!(read(&mut received))?;
            if received.filled().len() == self.incoming.len() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let received = received.filled_mut();
            let looked_at = self.look(received)?;
            self.incoming = BytesMut::from(&received[looked_at..]);
            Poll::Ready(Ok(()))
        })
    }

    /// Read and process records, if there are any.
    ///
    /// # Errors
    /// The client closed its side before the handshake was complete, or violated the protocol; an alert is
    /// sent.
    pub fn receive(&mut self, io: &TcpStream) -> io::Result<()> {
        let received = self.poll_receive(|room| match io.try_read(room.initialize_unfilled()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            read => Poll::Ready(read.map(|read| room.advance(read))),
        });
        match received {
            Poll::Ready(Ok(())) if self.ended && self.is_handshaking() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Poll::Ready(Err(error)) => {
                // Sending the alert is best effort; the client's error is what is returned.
                let _ = self.send(io);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Write pending output until the socket accepts no more, and return whether some is left.
    ///
    /// # Errors
    /// The client is gone.
    pub fn send(&mut self, io: &TcpStream) -> io::Result<bool> {
        while !self.outgoing.is_empty() {
            match try_write(io, &self.outgoing)? {
                0 => return Ok(true),
                written => self.outgoing.advance(written),
            }
        }
        self.outgoing = BytesMut::new();
        Ok(false)
    }

    /// Write all pending output.
    ///
    /// # Errors
    /// The client is gone.
    pub fn poll_send(&mut self, io: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.send(io)? {
            ready!(io.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Write pending output, then encrypt and write the beginning of `parts`, and return the number of plaintext
    /// bytes consumed. What the socket does not accept of them becomes pending.
    ///
    /// # Errors
    /// The client is gone, or the session can't be written to: before the handshake allows it, or after
    /// `close`.
    pub fn poll_write(
        &mut self,
        io: &TcpStream,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(io, cx))?;
        Poll::Ready(self.write(io, parts))
    }

    fn write(&mut self, io: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        ROOM_OF_THREAD.with_borrow_mut(|room| {
            let (mut taken, mut sealed) = (0, 0);
            for part in parts.iter().take(PARTS) {
                let part = &part[..part.len().min(SEALED - taken)];
                sealed += self.seal(part, &mut room[sealed..])?;
                taken += part.len();
            }
            let written = try_write(io, &room[..sealed])?;
            self.outgoing.extend_from_slice(&room[written..sealed]);
            Ok(taken)
        })
    }

    fn seal(&mut self, part: &[u8], room: &mut [u8]) -> io::Result<usize> {
        match self.tls.process_tls_records(&mut self.incoming).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                traffic.encrypt(part, room).map_err(io::Error::other)
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Queue a `close_notify` after pending output.
    pub fn close(&mut self) {
        let mut room = [0; 64];
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.tls.process_tls_records(&mut self.incoming).state
            && let Ok(sealed) = traffic.queue_close_notify(&mut room)
        {
            self.outgoing.extend_from_slice(&room[..sealed]);
        }
    }

    /// Process all complete messages in `received`, queue the output they cause, and return the number of
    /// bytes consumed.
    ///
    /// # Errors
    /// The client violated the protocol; the alert is queued.
    fn look(&mut self, received: &mut [u8]) -> io::Result<usize> {
        let mut looked_at = 0;
        let mut failed = None;
        // After a failure only output is fetched from rustls: it must not process more input.
        while failed.is_none() || self.tls.wants_write() {
            let UnbufferedStatus { discard, state, .. } =
                self.tls.process_tls_records(&mut received[looked_at..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        self.plaintext.extend_from_slice(record.map_err(io::Error::other)?.payload);
                    }
                }
                Ok(ConnectionState::ReadEarlyData(mut records)) => {
                    while let Some(record) = records.next_record() {
                        self.plaintext.extend_from_slice(record.map_err(io::Error::other)?.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(message)) => encode(message, &mut self.outgoing)?,
                // Queued output counts as transmitted.
                Ok(ConnectionState::TransmitTlsData(messages)) => messages.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(_) => return Ok(looked_at + discard),
                Err(error) => failed = Some(error),
            }
            looked_at += discard;
        }
        Err(failed.map_or(io::ErrorKind::InvalidData.into(), |error| {
            io::Error::new(io::ErrorKind::InvalidData, error)
        }))
    }
}

fn encode<Data>(mut message: EncodeTlsData<'_, Data>, outgoing: &mut BytesMut) -> io::Result<()> {
    let kept = outgoing.len();
    if let Err(EncodeError::InsufficientSize(needed)) = message.encode(&mut []) {
        outgoing.resize(kept + needed.required_size, 0);
        message.encode(&mut outgoing[kept..]).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Returns 0 if the socket's buffer is full.
fn try_write(io: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match io.try_write(bytes) {
        Ok(0) if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

#[cfg(test)]
impl Session {
    /// Bytes allocated for the session's own buffers.
    pub fn held(&self) -> usize {
        self.incoming.capacity() + self.plaintext.capacity() + self.outgoing.capacity()
    }
}
