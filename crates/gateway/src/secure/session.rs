//! A client's TLS session, and the bytes that it has to hold.
//!
//! The buffers of rustls stay with a session for as long as it lives. Through its interface without buffers
//! (`rustls::unbuffered`) a thread has one room for the records of all its sessions, in either direction. A
//! session itself holds what nobody has read yet, the beginning of a record, and what the connection has no
//! room for; most of the time, nothing.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// A record at its largest (RFC 8446, section 5.2).
const RECORD: usize = 5 + 16 * 1024 + 256;
/// What is sealed of an answer in one go, and written with one call: two records.
const SEALED: usize = 2 * 16 * 1024;
/// Parts that are sealed in one go. Each is a record, with up to 22 bytes around it.
const PARTS: usize = 64;
/// Records of one go, and an answer to a change of keys. No first flight of a client is larger, either.
const ROOM: usize = SEALED + 4 * 1024;

thread_local! {
    static ROOM_OF_THREAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into());
}

pub struct Session {
    tls: UnbufferedServerConnection,
    /// Of records, or of messages of the handshake, that are not whole.
    incoming: BytesMut,
    plaintext: BytesMut,
    outgoing: BytesMut,
    ended: bool,
}

impl Session {
    /// On the heap: it is a KiB, and moves from one who serves it to the next.
    ///
    /// # Errors
    /// rustls can't do what the configuration asks for.
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

    /// Whether something has come that nobody has read: early data, during the handshake.
    pub fn has_plaintext(&self) -> bool {
        !self.plaintext.is_empty()
    }

    /// Put what has come into `buffer` as far as there is room, and say whether anything has.
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

    /// Whether something is still to be sent.
    pub fn keeps(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the client has said that nothing more will come.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Read once, and look at what has come.
    ///
    /// # Errors
    /// The client is gone without having said so, or doesn't keep to TLS, which it should be told (`send`).
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

    /// Read and look at what has come, if anything has.
    ///
    /// # Errors
    /// The client has ended its side before the handshake was complete, or doesn't keep to TLS, which it is told.
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
                // It is told if there is room for it; what it did wrong is what counts.
                let _ = self.send(io);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Write what is to be sent as far as there is room, and say whether some is left.
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

    /// Seal the beginning of `parts` and write it, and say how much that was. Nothing else may be left to be
    /// sent; what there is no room for is kept.
    ///
    /// # Errors
    /// The client is gone, or it is too early or too late for writing.
    pub fn write(&mut self, io: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
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

    /// Tell the client that nothing more will come, once what is to be sent has been.
    pub fn close(&mut self) {
        let mut room = [0; 64];
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.tls.process_tls_records(&mut self.incoming).state
            && let Ok(sealed) = traffic.queue_close_notify(&mut room)
        {
            self.outgoing.extend_from_slice(&room[..sealed]);
        }
    }

    /// Take what `received` holds of whole messages, put by what is to be said to them, and say how much of it
    /// that was.
    ///
    /// # Errors
    /// It isn't TLS as it should be; why, for the client, is to be sent.
    fn look(&mut self, received: &mut [u8]) -> io::Result<usize> {
        let mut looked_at = 0;
        let mut failed = None;
        // After a failure, what is to be sent is all that rustls is asked for: it must not look any further.
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
                // It counts as sent once it is put by.
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

/// Nothing, if there is no room at all.
fn try_write(io: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match io.try_write(bytes) {
        Ok(0) if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

#[cfg(test)]
impl Session {
    /// Bytes that it has room for by itself.
    pub fn held(&self) -> usize {
        self.incoming.capacity() + self.plaintext.capacity() + self.outgoing.capacity()
    }
}
