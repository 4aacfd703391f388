//! TLS 1.3 towards clients: certificates and what is spoken inside.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
use crate::config::Config;

/// How TLS is spoken where it is configured.
///
/// # Errors
/// A certificate or a key can't be used.
pub fn load(config: &Config) -> Result<Option<ServerConfig>, Error> {
    let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else {
        return Ok(None);
    };
    let wrong = |path: &str, error: &dyn std::fmt::Display| Error::Config(format!("{path}: {error}"));
    let chain = CertificateDer::pem_file_iter(Path::new(certificate))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| wrong(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(certificate, &error))?;
    Ok(Some(tls))
}

/// The same TLS for these protocols, the preferred one first.
pub fn speaking(tls: &ServerConfig, protocols: &[&str]) -> ServerConfig {
    let mut tls = tls.clone();
    tls.alpn_protocols = protocols.iter().map(|each| each.as_bytes().to_vec()).collect();
    tls
}
