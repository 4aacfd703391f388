//! The first flight of a client over TCP, and what it says before the handshake is complete.
//!
//! tokio-rustls hands a connection over once its handshake is complete, when early data has nothing left to
//! gain. So where early data is taken the first flight is read here, by rustls alone. If none came with
//! it, or none that may be taken, tokio-rustls goes on from where rustls is, and it is a connection like
//! any other. Else it is served from now on (`stream.rs`).

use std::io;
use std::sync::Arc;

use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Handshake;
use super::stream::EarlyStream;
use crate::client::Client;

/// A client's connection that may be served.
pub enum Accepted {
    Complete(Box<TlsStream<TcpStream>>),
    /// Before its handshake is complete, with the protocol that was agreed on.
    Early {
        stream: EarlyStream,
        protocol: Option<Vec<u8>>,
        handshake: Handshake,
    },
}

/// Take a client in, with its early data if it sends some and `tls` allows for it; its handshake ends by
/// `deadline` then, or it is cut off.
///
/// # Errors
/// The client is gone, or its handshake fails.
pub async fn accept(
    tls: TlsAcceptor,
    io: TcpStream,
    client: &Arc<Client>,
    deadline: Instant,
) -> io::Result<Accepted> {
    if tls.config().max_early_data_size == 0 {
        return Ok(Accepted::Complete(Box::new(tls.accept(io).await?)));
    }
    let mut session = ServerConnection::new(Arc::clone(tls.config())).map_err(io::Error::other)?;
    // There is something to say as soon as the client has said who it is, and not before.
    while !session.wants_write() {
        io.readable().await?;
        receive(&mut session, &io)?;
    }
    if session.early_data().is_none() {
        let accepted = tls.accept_with(io, |fresh| *fresh = session).await?;
        return Ok(Accepted::Complete(Box::new(accepted)));
    }
    while session.wants_write() {
        io.writable().await?;
        send(&mut session, &io)?;
    }
    let protocol = session.alpn_protocol().map(Vec::from);
    let (stream, handshake) = EarlyStream::begin(session, io, tls, Arc::clone(client), deadline);
    Ok(Accepted::Early { stream, protocol, handshake })
}

/// Read and look at what has come, if anything has.
///
/// # Errors
/// The client has ended its side, or does not keep to TLS, which it is told.
pub fn receive(session: &mut ServerConnection, io: &TcpStream) -> io::Result<()> {
    match session.read_tls(&mut Socket(io)) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        read => _ = read?,
    }
    session.process_new_packets().map(|_| ()).map_err(|error| {
        // It is told if there is room for it; what it did wrong is what counts.
        let _ = send(session, io);
        io::Error::new(io::ErrorKind::InvalidData, error)
    })
}

/// Write what is to be sent, as far as there is room, and say whether some is left.
///
/// # Errors
/// The client is gone.
pub fn send(session: &mut ServerConnection, io: &TcpStream) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(&mut Socket(io)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            written => _ = written?,
        }
    }
    Ok(false)
}

/// A connection as far as it doesn't have to be waited for.
struct Socket<'a>(&'a TcpStream);

impl io::Read for Socket<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(room)
    }
}

impl io::Write for Socket<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.0.try_write(part)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
