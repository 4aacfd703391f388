//! The certificates shown to clients, selected by server name: from files and from an ACME directory.
//!
//! Files are read whenever a configuration is applied (`tls.rs`). Python (`counterfoil.gateway.acme`) hands
//! over what the directory has issued, with its challenge certificates and the state of each name, which is
//! only passed on to the admin port. Each hand-over is complete and replaces the previous one by swapping a
//! pointer: the next handshake uses it, existing connections are unaffected.
//!
//! A name with an issued certificate is served with it even if a file covers the name: the file serves until
//! the first certificate is issued.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::config::Config;
use crate::metrics::Page;

/// ALPN protocol of an ACME directory that validates a challenge (RFC 8737, section 4).
pub const PROOF: &[u8] = b"acme-tls/1";

/// The certificates in force.
#[derive(Debug)]
pub struct Certificates {
    files: ArcSwap<Table>,
    issued: ArcSwap<Issued>,
}

impl Certificates {
    pub fn new(files: Table) -> Self {
        Self { files: ArcSwap::from_pointee(files), issued: ArcSwap::default() }
    }

    /// Use these file certificates from the next handshake on.
    pub fn replace(&self, files: Table) {
        self.files.store(Arc::new(files));
    }

    /// Use these issued certificates from the next handshake on; `document` is a `Given`, in JSON.
    ///
    /// # Errors
    /// The document is invalid; the previous certificates stay. A name with an unusable certificate is
    /// skipped.
    pub fn issue(&self, document: &str) -> Result<(), Error> {
        self.issued.store(Arc::new(Issued::read(document)?));
        Ok(())
    }

    /// For the admin port: each certificate with its names and expiry, and the state of each ACME name.
    pub fn state(&self) -> (Value, Value) {
        let (files, issued) = (self.files.load(), self.issued.load());
        let certificates = files.shown.iter().chain(&issued.shown);
        (certificates.map(|shown| json!(shown)).collect(), json!(issued.hosts))
    }

    pub fn metrics(&self, page: &mut Page) {
        let (files, issued) = (self.files.load(), self.issued.load());
        // If two certificates have the same first name, report the earlier expiry.
        let mut ends: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for shown in files.shown.iter().chain(&issued.shown) {
            if let (Some(first), Some(not_after)) = (shown.names.first(), shown.not_after) {
                let end = ends.entry((first, shown.source)).or_insert(not_after);
                *end = not_after.min(*end);
            }
        }
        let name = "certificate_not_after_seconds";
        page.head(name, "", "gauge", "When a certificate that clients are shown ends, since 1970.");
        for ((certificate, source), not_after) in ends {
            page.sample(name, "", &[("certificate", certificate), ("source", source)], not_after);
        }
        let name = "acme_failures";
        page.head(name, "", "gauge", "Tries in a row for which a directory gave no certificate.");
        for host in &issued.hosts {
            page.sample(name, "", &[("host", host.host.as_str())], host.failures);
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let mut protocols = hello.alpn().into_iter().flatten();
        if protocols.next() == Some(PROOF) && protocols.next().is_none() {
            return self.issued.load().challenges.get(&name?).cloned();
        }
        let issued = self.issued.load();
        let found = name.as_deref().and_then(|name| issued.by_name.get(name).cloned());
        Some(found.unwrap_or_else(|| self.files.load().choose(name.as_deref())))
    }
}

/// What the admin port shows of a certificate.
#[derive(Debug, Serialize)]
struct Shown {
    /// `file` or `acme`.
    source: &'static str,
    names: Vec<String>,
    /// In seconds since 1970.
    not_after: Option<u64>,
}

impl Shown {
    fn of(source: &'static str, chain: &CertifiedKey) -> Result<Self, String> {
        let leaf = chain.end_entity_cert().map_err(|error| error.to_string())?;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
        let names = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
        // webpki reports the expiry only for an expired certificate, so verify as of the last possible day.
        let last = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
        let usage = webpki::KeyUsage::server_auth();
        let not_after = match leaf.verify_for_usage(&[], &[], &[], last, usage, None, None) {
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
            _ => None,
        };
        Ok(Self { source, names, not_after })
    }
}

/// Certificates from files, by name.
#[derive(Debug)]
pub struct Table {
    /// For clients without SNI, or with a name that no other certificate covers.
    first: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
    shown: Vec<Shown>,
}

impl Table {
    /// All file certificates of a configuration; `None` without TLS.
    ///
    /// # Errors
    /// A file can't be read, or a key doesn't match its certificate.
    pub fn load(config: &Config) -> Result<Option<Self>, Error> {
        let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(None) };
        let provider = ring::default_provider();
        let first = read(certificate, key, &provider)?;
        let mut table = Self { first: Arc::clone(&first), by_name: HashMap::new(), shown: Vec::new() };
        table.add(certificate, &first)?;
        for each in &config.certificates {
            table.add(&each.certificate, &read(&each.certificate, &each.key, &provider)?)?;
        }
        Ok(Some(table))
    }

    /// If several certificates cover a name, the first one wins.
    fn add(&mut self, path: &str, certified: &Arc<CertifiedKey>) -> Result<(), Error> {
        let shown = Shown::of("file", certified).map_err(|error| wrong(path, &error))?;
        for name in &shown.names {
            self.by_name.entry(name.clone()).or_insert_with(|| Arc::clone(certified));
        }
        self.shown.push(shown);
        Ok(())
    }

    /// `name` is in lower case.
    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let found = name.and_then(|name| {
            let wildcard = || {
                let (_, domain) = name.split_once('.')?;
                self.by_name.get(&format!("*.{domain}"))
            };
            self.by_name.get(name).or_else(wildcard)
        });
        Arc::clone(found.unwrap_or(&self.first))
    }
}

/// The state of all ACME names, as Python hands it over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    issued: Vec<Pair>,
    /// Challenge certificates for the names that the directory validates.
    challenges: Vec<Pair>,
    hosts: Vec<Host>,
}

/// A certificate chain and its key, in PEM.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    host: String,
    certificate: String,
    key: String,
}

/// State of an ACME name, passed on to the admin port as it is. Times are in seconds since 1970.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Host {
    host: String,
    ordering: bool,
    /// Consecutive failures.
    failures: u64,
    /// Why the last attempt failed.
    trouble: Option<String>,
    /// Time of the next attempt.
    try_at: Option<f64>,
    renew_at: Option<f64>,
}

/// What the directory has issued, by name.
#[derive(Debug, Default)]
struct Issued {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    challenges: HashMap<String, Arc<CertifiedKey>>,
    shown: Vec<Shown>,
    hosts: Vec<Host>,
}

impl Issued {
    fn read(document: &str) -> Result<Self, Error> {
        let given: Given = serde_json::from_str(document)
            .map_err(|error| Error::Config(format!("certificates of a directory: {error}")))?;
        let provider = ring::default_provider();
        let mut issued = Self { hosts: given.hosts, ..Self::default() };
        for pair in given.issued {
            match pair.shown(&provider) {
                Ok((certified, shown)) => {
                    issued.shown.push(shown);
                    issued.by_name.insert(pair.host, certified);
                }
                Err(error) => issued.leave_out(&pair.host, &error),
            }
        }
        for pair in given.challenges {
            match pair.proof(&provider) {
                Ok(proof) => {
                    issued.challenges.insert(pair.host, proof);
                }
                Err(error) => issued.leave_out(&pair.host, &error),
            }
        }
        Ok(issued)
    }

    /// Report why a name's certificate is skipped. The others are used all the same: each hand-over contains
    /// all names, so an error must not keep them from being renewed.
    fn leave_out(&mut self, name: &str, error: &Error) {
        let told = json!({"level": "error", "event": "certificate_not_shown", "error": error.to_string()});
        eprintln!("{told}");
        if let Some(host) = self.hosts.iter_mut().find(|host| host.host == name) {
            host.trouble = Some(error.to_string());
        }
    }
}

impl Pair {
    fn shown(&self, provider: &CryptoProvider) -> Result<(Arc<CertifiedKey>, Shown), Error> {
        let certified = self.certified(provider)?;
        let shown = Shown::of("acme", &certified).map_err(|error| wrong(&self.host, &error))?;
        Ok((certified, shown))
    }

    fn certified(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
        let (chain, private) = self.read()?;
        certified(chain, private, provider).map_err(|error| wrong(&self.host, &error))
    }

    /// The challenge certificate has a critical extension (RFC 8737, section 3), so that no client accepts
    /// it. rustls's check of key and certificate rejects it for the same reason and is skipped.
    fn proof(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
        let (chain, private) = self.read()?;
        let key = provider.key_provider.load_private_key(private);
        let key = key.map_err(|error| wrong(&self.host, &error))?;
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let private = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let both = |chain| private.map(|private| (chain, private));
        let read = chain.collect::<Result<Vec<_>, _>>().and_then(both);
        read.map_err(|error| wrong(&self.host, &error))
    }
}

/// Check the files of the additional certificates, whether or not there is a first one.
///
/// # Errors
/// One can't be read, or a key doesn't match its certificate.
pub fn check(config: &Config) -> Result<(), Error> {
    let provider = ring::default_provider();
    for (place, each) in config.certificates.iter().enumerate() {
        read(&each.certificate, &each.key, &provider).map_err(|error| Error::Setting {
            setting: format!("certificates[{place}]"),
            detail: error.to_string(),
        })?;
    }
    Ok(())
}

fn read(certificate: &str, key: &str, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let chain = CertificateDer::pem_file_iter(Path::new(certificate))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| wrong(key, &error))?;
    certified(chain, private, provider).map_err(|error| wrong(key, &error))
}

/// The chain with its key; fails if they don't match.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    CertifiedKey::from_der(chain, private, provider).map(Arc::new)
}

fn wrong(path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("{path}: {error}"))
}
