//! TLS 1.3 towards clients: certificates by name, and what is spoken inside.
//!
//! Certificates are read anew whenever a configuration is put into force, so that one that was
//! renewed serves the next handshake, and connections go on. Sessions are resumed by tickets that all
//! gateways read (`tickets.rs`), or over QUIC, where early data (0-RTT) is configured, by those that this
//! one remembers (`sessions.rs`). What may be done with a request in early data is in `early_data.rs`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
use crate::config::Config;
use crate::sessions::Sessions;
use crate::tickets::Tickets;

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
    let certificates = Arc::new(Certificates(ArcSwap::from_pointee(table)));
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
    pub fn speaking(&self, protocols: &[&str]) -> ServerConfig {
        let mut tls = self.plain.clone();
        tls.alpn_protocols = protocols.iter().map(|each| each.as_bytes().to_vec()).collect();
        tls.ticketer = Arc::clone(&self.tickets) as _;
        tls
    }

    /// The same for QUIC, with early data and sessions that only this gateway resumes, each once.
    pub fn speaking_early(&self, protocols: &[&str]) -> ServerConfig {
        let mut tls = self.speaking(protocols);
        tls.ticketer = Arc::clone(&self.plain.ticketer);
        tls.session_storage = Arc::new(Sessions::default());
        // What QUIC wants said of early data (RFC 9001, section 4.6.1): its windows bound it.
        tls.max_early_data_size = u32::MAX;
        tls
    }
}

/// The certificates in force.
#[derive(Debug)]
pub struct Certificates(ArcSwap<Table>);

impl Certificates {
    /// Use these from the next handshake on.
    pub fn replace(&self, table: Table) {
        self.0.store(Arc::new(table));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().choose(hello.server_name()))
    }
}

/// Certificates by the names that they are for.
#[derive(Debug)]
pub struct Table {
    /// For clients that name nothing, or what no other is for.
    first: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Table {
    /// All certificates of a configuration; nothing if it is without TLS.
    ///
    /// # Errors
    /// A file can't be read, or a key isn't its certificate's.
    pub fn load(config: &Config) -> Result<Option<Self>, Error> {
        let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(None) };
        let provider = ring::default_provider();
        let first = read(certificate, key, &provider)?;
        let mut table = Self { first: Arc::clone(&first), by_name: HashMap::new() };
        table.add(certificate, &first)?;
        for each in &config.certificates {
            table.add(&each.certificate, &read(&each.certificate, &each.key, &provider)?)?;
        }
        Ok(Some(table))
    }

    /// The first certificate for a name stays.
    fn add(&mut self, path: &str, certified: &Arc<CertifiedKey>) -> Result<(), Error> {
        let leaf = certified.end_entity_cert().map_err(|error| wrong(path, &error))?;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| wrong(path, &error))?;
        for name in leaf.valid_dns_names() {
            self.by_name.entry(name.to_ascii_lowercase()).or_insert_with(|| Arc::clone(certified));
        }
        Ok(())
    }

    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let found = name.map(str::to_ascii_lowercase).and_then(|name| {
            let wildcard = || {
                let (_, domain) = name.split_once('.')?;
                self.by_name.get(&format!("*.{domain}"))
            };
            self.by_name.get(&name).or_else(wildcard)
        });
        Arc::clone(found.unwrap_or(&self.first))
    }
}

fn read(certificate: &str, key: &str, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let chain = CertificateDer::pem_file_iter(Path::new(certificate))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| wrong(key, &error))?;
    // This refuses a key that isn't the certificate's.
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|error| wrong(key, &error))?;
    Ok(Arc::new(certified))
}

fn wrong(path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("{path}: {error}"))
}
