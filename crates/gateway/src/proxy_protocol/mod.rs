//! Connections that a load balancer passes on, and says by the PROXY protocol whose they are.
//!
//! Whoever can send this header says who he is, so it is never optional: where it is asked for, every
//! connection begins with one, and only trusted proxies may send it. Who comes from elsewhere, sends
//! none, or not to the letter, is let go without an answer. From then on the client's address is the one
//! that was told, for limits, networks that may ask, and `X-Forwarded-For`. A proxy that connects for itself
//! (LOCAL, UNKNOWN), as for its checks, is served under its own address.
//!
//! It comes before TLS, and is read on its own: bytes are looked at where they lie in the kernel, and
//! taken only as far as they are the header's.

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

/// What is looked at at a time: as much as the specification wants a header to fit into.
const LOOK_BYTES: usize = 536;
/// Of connections that are let go so many are logged at most: one in so long.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Read the header of a connection: where that comes from, or nothing if it is the proxy's own.
///
/// # Errors
/// `InvalidData` for what is no header, and others when the connection ends before its end.
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

/// Connections that were let go since nobody who is trusted announced them.
#[derive(Default)]
pub struct Refused {
    count: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Refused {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Count one more, and log it now and then.
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
