//! Opens connections to instances, including the TLS handshake.

use std::io;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Target;
use super::stream::Stream;

/// Connect, with TLS if the target uses it, by the deadline `until`.
///
/// # Errors
/// Why there is no connection. TLS failures are also recorded for operators and logged.
pub async fn connect(target: &Target<'_>, until: Instant) -> io::Result<Stream> {
    let stream = timeout_at(until, TcpStream::connect(target.address)).await??;
    // Without TCP_NODELAY, a small request can wait for the peer's acknowledgement (Nagle's algorithm).
    stream.set_nodelay(true)?;
    let Some(tls) = target.tls else { return Ok(Stream::Plain(stream)) };
    let reason = match timeout_at(until, tls.secure(target, stream)).await {
        Ok(Ok(secured)) => return Ok(Stream::Secured(Box::new(secured))),
        Ok(Err(reason)) => reason,
        Err(_) => "it did not finish the TLS handshake in time".to_owned(),
    };
    tls.record.failed(target.instance, &reason);
    Err(io::Error::other(reason))
}
