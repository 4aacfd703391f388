//! TLS 1.3 with clients: ALPN and session resumption.
//!
//! `certificates.rs` selects the certificate by server name. Sessions are resumed by tickets that all
//! gateways with the same secret can read (`tickets.rs`) or, with early data (0-RTT), from this gateway's own
//! session cache (`sessions.rs`). `early_data` decides which requests may be served in early data.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;

use crate::Error;
use crate::certificates::{Certificates, Table};
use crate::config::Config;
use crate::sessions::Sessions;
use crate::tickets::Tickets;

/// Maximum bytes of early data over TCP: some requests without bodies, or one with the largest head that
/// browsers send. They are buffered until they are read or the handshake ends.
const EARLY_DATA: u32 = 16 * 1024;

/// TLS settings for clients.
pub struct Tls {
    /// Without session resumption.
    plain: ServerConfig,
    tickets: Arc<Tickets>,
}

/// The TLS settings and certificates; `None` if TLS isn't configured.
///
/// # Errors
/// A certificate, a key or the ticket secret can't be used.
pub fn load(config: &Config) -> Result<Option<(Tls, Arc<Certificates>)>, Error> {
    let Some(table) = Table::load(config)? else { return Ok(None) };
    let certificates = Arc::new(Certificates::new(table));
    let plain = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Config(format!("TLS: {error}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&certificates) as _);
    let tickets = Arc::new(Tickets::load(config.ticket_secret.as_deref())?);
    Ok(Some((Tls { plain, tickets }, certificates)))
}

impl Tls {
    /// For these ALPN protocols, the preferred one first, with tickets that other gateways can resume.
    pub fn speaking(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.plain.clone();
        tls.alpn_protocols = protocols.iter().map(|each| each.to_vec()).collect();
        tls.ticketer = Arc::clone(&self.tickets) as _;
        tls
    }

    /// The same with early data, for QUIC.
    pub fn speaking_early_by_quic(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.remembering(protocols);
        // The only value that QUIC allows (RFC 9001, section 4.6.1); flow control bounds early data.
        tls.max_early_data_size = u32::MAX;
        tls
    }

    /// The same with early data, for TCP.
    pub fn speaking_early_by_tcp(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.remembering(protocols);
        tls.max_early_data_size = EARLY_DATA;
        // Send answers before the handshake is complete, too.
        tls.send_half_rtt_data = true;
        tls
    }

    /// With sessions that only this gateway can resume, each once: rustls gives early data to no others.
    fn remembering(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.speaking(protocols);
        tls.ticketer = Arc::clone(&self.plain.ticketer);
        tls.session_storage = Arc::new(Sessions::default());
        tls
    }
}
