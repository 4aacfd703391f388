//! The handshake of a client over TCP, and what it says before that is complete.
//!
//! Only early data comes as plaintext before. It has nothing left to gain once the handshake is complete, so a
//! connection that has some is served at once (`stream.rs`). Without any it is one like any other.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Handshake;
use super::stream::EarlyStream;
use crate::client::Client;
use crate::secure::{SecureStream, Session};

/// A client's connection that may be served, with the protocol that was agreed on.
pub enum Accepted {
    Complete(SecureStream, Option<Vec<u8>>),
    /// Before its handshake is complete.
    Early(EarlyStream, Option<Vec<u8>>, Handshake),
}

/// Take a client in, with its early data if it sends some and `tls` allows for it; its handshake ends by
/// `deadline` then, or it is cut off.
///
/// # Errors
/// The client is gone, or its handshake fails.
pub async fn accept(
    tls: Arc<ServerConfig>,
    io: TcpStream,
    client: &Arc<Client>,
    deadline: Instant,
) -> io::Result<Accepted> {
    let mut session = Session::new(tls)?;
    while session.is_handshaking() && !session.has_plaintext() {
        io.readable().await?;
        session.receive(&io)?;
        while session.send(&io)? {
            io.writable().await?;
        }
    }
    let protocol = session.protocol().map(Vec::from);
    if !session.is_handshaking() {
        return Ok(Accepted::Complete(SecureStream::new(io, session), protocol));
    }
    let (stream, handshake) = EarlyStream::begin(session, io, Arc::clone(client), deadline);
    Ok(Accepted::Early(stream, protocol, handshake))
}
