//! TLS handshakes over TCP, with early data.
//!
//! Before the handshake is complete, the only plaintext is early data. Waiting for the handshake would
//! forfeit the round trip that early data saves, so a connection that has some is served at once
//! (`stream.rs`).

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Handshake;
use super::stream::EarlyStream;
use crate::client::Client;
use crate::secure::{SecureStream, Session};

/// A client's connection that is ready to be served.
pub enum Accepted {
    Complete(SecureStream),
    /// The handshake is not complete yet.
    Early(EarlyStream),
}

/// Accept a connection, with early data if the client sends some and `tls` allows it. If the handshake is
/// then not complete by `deadline`, the connection is cut. Returns the protocol negotiated by ALPN, too, and
/// the handshake unless it is complete.
///
/// # Errors
/// The client is gone, or its handshake fails.
pub async fn accept(
    tls: Arc<ServerConfig>,
    io: TcpStream,
    client: &Arc<Client>,
    deadline: Instant,
) -> io::Result<(Accepted, Option<Vec<u8>>, Option<Handshake>)> {
    let mut session = Session::new(tls)?;
    while session.is_handshaking() && !session.has_plaintext() {
        io.readable().await?;
        session.receive(&io)?;
        poll_fn(|cx| session.poll_send(&io, cx)).await?;
    }
    let protocol = session.protocol().map(Vec::from);
    if !session.is_handshaking() {
        return Ok((Accepted::Complete(SecureStream::new(io, session)), protocol, None));
    }
    let (stream, handshake) = EarlyStream::begin(session, io, Arc::clone(client), deadline);
    Ok((Accepted::Early(stream), protocol, Some(handshake)))
}
