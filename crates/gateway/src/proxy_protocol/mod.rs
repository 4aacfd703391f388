//! The PROXY protocol, by which a load balancer passes on the client's address.
//!
//! The header determines the client's address, so it is never optional: if the protocol is enabled, every
//! connection must begin with a header, and only trusted proxies may send one. Connections from other
//! addresses, or without a valid header, are closed without a response. From then on the client's address is
//! the one in the header, for limits, allowed networks and `X-Forwarded-For`. A proxy's own connections
//! (LOCAL, UNKNOWN), such as health checks, are served under the proxy's address.
//!
//! The header precedes TLS. It is peeked at in the kernel's buffer, and only the bytes of the header are
//! consumed.

pub mod header;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use self::header::{Header, Malformed};

/// The size of a peek: the specification wants a header to fit into it.
const LOOK_BYTES: usize = 536;
/// At most one refused connection is logged in this time.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Read the header of a connection and return its source address; `None` if the connection is the proxy's
/// own.
///
/// # Errors
/// `InvalidData` for an invalid header, others if the connection ends before the header is complete.
pub async fn source(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let (mut read, mut seen) = (Vec::new(), [0; LOOK_BYTES]);
    loop {
        let before = read.len();
        let more = stream.peek(&mut seen).await?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&seen[..more]);
        match header::parse(&read)
            .map_err(|Malformed(why)| io::Error::new(io::ErrorKind::InvalidData, why))?
        {
            Header::Whole { length, source } => {
                stream.read_exact(&mut seen[..length - before]).await?;
                return Ok(source.map(|address| address.to_canonical()));
            }
            Header::Partial => _ = stream.read_exact(&mut seen[..more]).await?,
        }
    }
}

/// Connections closed because no trusted proxy announced their address.
#[derive(Default)]
pub struct Refused {
    count: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Refused {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Count a connection, and log it if the last line is old enough.
    pub fn add(&self, peer: IpAddr, reason: &str) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| now.duration_since(told) < BETWEEN_LINES) {
            return;
        }
        *told = Some(now);
        let line = json!({"level": "warning", "event": "connection_not_announced", "peer": peer.to_string(),
            "reason": reason, "hint": "proxy_protocol is on: have the load balancer send its header"});
        eprintln!("{line}");
    }
}
