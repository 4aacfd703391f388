//! TLS 1.3 with clients: ALPN and session resumption.
//!
//! Certificates are chosen by name (`certificates.rs`). Sessions are resumed by tickets that all
//! gateways read (`tickets.rs`), or where early data (0-RTT) is configured, by those that this one
//! remembers (`sessions.rs`). What may be done with a request in early data is in `early_data`.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;

use crate::Error;
use crate::certificates::{Certificates, Table};
use crate::config::Config;
use crate::sessions::Sessions;
use crate::tickets::Tickets;

/// Bytes of early data that a client of TCP may send: some requests without bodies, or one with the
/// largest head that browsers send. They are held until they are read or the handshake ends.
const EARLY_DATA: u32 = 16 * 1024;

/// How TLS is spoken with clients.
pub struct Tls {
    /// Without a way to resume sessions.
    plain: ServerConfig,
    tickets: Arc<Tickets>,
}

/// How TLS is spoken where it is configured, and its certificates.
///
/// # Errors
/// A certificate, a key or the tickets' secret can't be used.
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
    /// For these protocols, the preferred one first, with sessions that other gateways resume.
    pub fn speaking(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.plain.clone();
        tls.alpn_protocols = protocols.iter().map(|each| each.to_vec()).collect();
        tls.ticketer = Arc::clone(&self.tickets) as _;
        tls
    }

    /// The same with early data, for QUIC.
    pub fn speaking_early_by_quic(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.remembering(protocols);
        // What QUIC wants said of early data (RFC 9001, section 4.6.1): its windows bound it.
        tls.max_early_data_size = u32::MAX;
        tls
    }

    /// The same with early data, for TCP.
    pub fn speaking_early_by_tcp(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.remembering(protocols);
        tls.max_early_data_size = EARLY_DATA;
        // Answers to it don't wait for the handshake either.
        tls.send_half_rtt_data = true;
        tls
    }

    /// With sessions that only this gateway resumes, each once: to others rustls gives no early data.
    fn remembering(&self, protocols: &[&[u8]]) -> ServerConfig {
        let mut tls = self.speaking(protocols);
        tls.ticketer = Arc::clone(&self.plain.ticketer);
        tls.session_storage = Arc::new(Sessions::default());
        tls
    }
}
