//! TLS 1.3 and 1.2 with instances: server authentication and client certificates.
//!
//! An instance has to present a certificate that is issued by a trusted authority and valid for the expected
//! name: the host of its address, or `server_name` where discovery returns IP addresses. No setting disables
//! this check, since an attacker on the path could then impersonate the instance unnoticed; for a self-signed
//! certificate, set `ca_file`. Identities other than names (SPIFFE) would only need another verifier here.
//!
//! All files are read at the start and at each reload. If their content is unchanged, the existing `Tls`
//! stays, with its sessions and connections. Otherwise a new one replaces it and begins without any, since
//! what the old files trusted is no longer trusted. Requests under way complete on the old one.
//!
//! Sessions are kept per instance, since a ticket is only valid at the instance that issued it.

mod reason;
mod record;
mod secured;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{Context, Digest, SHA256};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring as cryptography};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::reason::Surroundings;
pub use self::record::Record;
pub use self::secured::Secured;
use super::Target;
use crate::Error;
use crate::authorities;
use crate::config::{Protocol, Service, ServiceTls};

/// Instances per service whose sessions are kept. When the limit is exceeded, all are dropped, which costs
/// each a full handshake.
const INSTANCES: usize = 1024;
/// Sessions per instance: rustls' own limit for one name. Each is used for one connection only (RFC 8446,
/// section C.4).
const SESSIONS: usize = 8;

/// The TLS configuration for one service's instances.
pub struct Tls {
    /// Unique within the process.
    pub id: u64,
    config: ClientConfig,
    server_name: Option<ServerName<'static>>,
    /// A digest of all inputs.
    digest: Digest,
    /// Configurations with the sessions of one instance each, by address.
    sessions: Mutex<HashMap<String, Arc<ClientConfig>>>,
    surroundings: Arc<Surroundings>,
    /// Kept across changes of the files.
    pub record: Arc<Record>,
}

impl Tls {
    /// The TLS configuration of a service, if it uses TLS; `before` itself if nothing has changed.
    ///
    /// # Errors
    /// `Error::Setting` for an unusable file, an invalid name, or a protocol that contradicts the use of TLS.
    pub fn load(
        name: &str,
        service: &Service,
        before: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, Error> {
        let wrong = |setting: &str, detail: &str| Error::Setting {
            setting: format!("services.{name}.{setting}"),
            detail: format!("service {name}: {setting}: {detail}"),
        };
        let settings = match (&service.tls, service.protocol) {
            (None, Protocol::H2) => {
                return Err(wrong("protocol", "h2 is spoken over TLS: add tls = {}, or set h2c"));
            }
            (Some(_), Protocol::H2c) => {
                return Err(wrong("protocol", "h2c is spoken without TLS: set h2, or take tls out"));
            }
            (None, _) => return Ok(None),
            (Some(settings), _) => settings,
        };
        let wrong = |setting: &str, detail: &str| wrong(&format!("tls.{setting}"), detail);
        let provider = Arc::new(cryptography::default_provider());
        let roots = authorities::trusted(settings.ca_file.as_deref().map(Path::new))
            .map_err(|error| wrong("ca_file", &error))?;
        let own = Own::load(settings, &provider, &wrong)?;
        let server_name = match settings.server_name.clone() {
            None => None,
            Some(text) => Some(ServerName::try_from(text).map_err(|_| {
                wrong("server_name", "is no name of a host: write it without scheme, port and *")
            })?),
        };
        let digest = digest(settings, service.protocol, &roots, own.as_ref());
        if let Some(same) = before.filter(|before| before.digest.as_ref() == digest.as_ref()) {
            return Ok(Some(Arc::clone(same)));
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Config(format!("service {name}: tls: {error}")))?
            .with_root_certificates(roots);
        let surroundings = Arc::new(Surroundings {
            ca_file: settings.ca_file.clone(),
            shows_certificate: own.is_some(),
            asked: AtomicBool::new(false),
        });
        let shown =
            Shown { own: own.map(|own| own.certified.into()), surroundings: Arc::clone(&surroundings) };
        let mut config = builder.with_client_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![alpn(service.protocol).to_vec()];
        static MADE: AtomicU64 = AtomicU64::new(0);
        let record = before.map_or_else(|| Arc::new(Record::new(name)), |before| Arc::clone(&before.record));
        Ok(Some(Arc::new(Self {
            id: MADE.fetch_add(1, Ordering::Relaxed),
            config,
            server_name,
            digest,
            sessions: Mutex::default(),
            surroundings,
            record,
        })))
    }

    /// Perform the TLS handshake on a new connection.
    ///
    /// # Errors
    /// A message for operators that tells why the handshake failed.
    pub async fn secure(&self, target: &Target<'_>, stream: TcpStream) -> Result<Secured, String> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host(target.address).to_owned())
                .map_err(|_| format!("{} is no name of a host: set server_name", host(target.address)))?,
        };
        let connector = TlsConnector::from(self.remembering(target.address));
        let connected = connector.connect(name, stream).await;
        let stream = connected.map_err(|error| reason::of_handshake(&error, &self.surroundings))?;
        let agreed = stream.get_ref().1.alpn_protocol();
        if target.protocol == Protocol::H2 && agreed != Some(alpn(Protocol::H2)) {
            return Err("it did not agree to HTTP/2 (ALPN): set protocol = \"http/1.1\"".into());
        }
        let (record, surroundings) = (Arc::clone(&self.record), Arc::clone(&self.surroundings));
        Ok(Secured::new(stream, record, surroundings, target.instance))
    }

    /// The configuration with the sessions of one instance.
    fn remembering(&self, address: &str) -> Arc<ClientConfig> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sessions.get(address) {
            return Arc::clone(known);
        }
        if sessions.len() >= INSTANCES {
            sessions.clear();
        }
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        sessions.insert(address.to_owned(), Arc::clone(&config));
        config
    }
}

fn alpn(protocol: Protocol) -> &'static [u8] {
    if protocol.is_http2() { b"h2" } else { b"http/1.1" }
}

/// The host of a `host:port`.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

/// The `Host` for a service's instance at an address: with TLS, the name that the certificate is for, since
/// servers with several names select by it and reject a mismatch (421).
pub fn authority(settings: Option<&ServiceTls>, address: &str) -> String {
    let Some(name) = settings.and_then(|settings| settings.server_name.as_deref()) else {
        return address.to_owned();
    };
    match address.rsplit_once(':') {
        Some((_, "443")) | None => name.to_owned(),
        Some((_, port)) => format!("{name}:{port}"),
    }
}

/// Presents the gateway's certificate to instances that request one, and records that they did.
#[derive(Debug)]
struct Shown {
    own: Option<SingleCertAndKey>,
    surroundings: Arc<Surroundings>,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.surroundings.asked.store(true, Ordering::Relaxed);
        self.own.as_ref()?.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.own.is_some()
    }
}

/// The gateway's client certificate for a service.
struct Own {
    certified: CertifiedKey,
    /// For the digest only.
    key: PrivateKeyDer<'static>,
}

impl Own {
    fn load(
        settings: &ServiceTls,
        provider: &CryptoProvider,
        wrong: &dyn Fn(&str, &str) -> Error,
    ) -> Result<Option<Self>, Error> {
        let (certificate, key) = match (&settings.certificate, &settings.key) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(wrong("certificate", "its key is missing: set key, too")),
            (None, Some(_)) => return Err(wrong("key", "its certificate is missing: set certificate, too")),
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let chain = authorities::certificates(Path::new(certificate))
            .map_err(|error| wrong("certificate", &error))?;
        fit_for_clients(&chain).map_err(|why| wrong("certificate", &format!("{certificate}: {why}")))?;
        let private = PrivateKeyDer::from_pem_file(Path::new(key))
            .map_err(|error| wrong("key", &format!("{key}: {error}")))?;
        let certified = CertifiedKey::from_der(chain, private.clone_key(), provider).map_err(|error| {
            let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
            let why = if error == mismatch {
                format!("is not the key of {certificate}: take the two that were made together")
            } else {
                error.to_string()
            };
            wrong("key", &format!("{key}: {why}"))
        })?;
        Ok(Some(Self { certified, key: private }))
    }
}

/// Check that a certificate is currently valid and usable for client authentication. Only the instance knows
/// whether it trusts the issuer, so an unknown issuer is no error.
fn fit_for_clients(chain: &[CertificateDer<'_>]) -> Result<(), String> {
    let leaf = chain.first().ok_or("there is no certificate in it")?;
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
    let usage = webpki::KeyUsage::client_auth();
    match leaf.verify_for_usage(&[], &[], &[], UnixTime::now(), usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            Err(format!("expired on {}: renew it", reason::date(not_after)))
        }
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Err(format!("is valid from {} on: look at this machine's clock", reason::date(not_before)))
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(_)) => {
            Err("is not meant for clients (its extended key usage): have one made with clientAuth".into())
        }
        _ => Ok(()),
    }
}

/// A digest of the configuration. Rewriting a file with the same content does not change it.
fn digest(settings: &ServiceTls, protocol: Protocol, roots: &RootCertStore, own: Option<&Own>) -> Digest {
    let mut context = Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    };
    add(alpn(protocol));
    for text in [&settings.server_name, &settings.ca_file] {
        add(text.as_deref().unwrap_or_default().as_bytes());
    }
    for root in &roots.roots {
        add(&root.subject);
        add(&root.subject_public_key_info);
        add(root.name_constraints.as_deref().unwrap_or_default());
    }
    if let Some(own) = own {
        own.certified.cert.iter().for_each(|each| add(each));
        add(own.key.secret_der());
    }
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_asked_by_the_name_that_its_certificate_is_for() {
        let settings = |name: Option<&str>| ServiceTls {
            ca_file: None,
            server_name: name.map(str::to_owned),
            certificate: None,
            key: None,
        };
        let named = settings(Some("payments.internal"));
        assert_eq!(authority(None, "10.0.0.1:80"), "10.0.0.1:80");
        assert_eq!(authority(Some(&settings(None)), "10.0.0.1:8443"), "10.0.0.1:8443");
        assert_eq!(authority(Some(&named), "10.0.0.1:8443"), "payments.internal:8443");
        assert_eq!(authority(Some(&named), "[fd00::1]:443"), "payments.internal");
        assert_eq!(host("[fd00::1]:443"), "fd00::1");
    }
}
