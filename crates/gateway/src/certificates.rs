//! The certificates that clients are shown: by the name that they ask for, from files and from an ACME
//! directory.
//!
//! Files are read anew whenever a configuration is put into force (`tls.rs`). What a directory has issued is
//! handed over by whoever keeps it (Python's `counterfoil.gateway.acme`), together with the proofs that it
//! wants to see and with how each name stands, which is only passed on to operators. Each hand-over is whole and
//! takes the place of the one before by a pointer, so that the next handshake has it, and connections go on.
//!
//! A name that was asked of a directory is served by what that issued, even if a file is for it as well: so a
//! file serves until the first certificate is there.

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

/// What a directory speaks that looks for a proof (RFC 8737, section 4).
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

    /// Use these of files from the next handshake on.
    pub fn replace(&self, files: Table) {
        self.files.store(Arc::new(files));
    }

    /// Use these of a directory from the next handshake on; `document` is a `Given`, in JSON.
    ///
    /// # Errors
    /// It isn't one; what was given before stays. A name of which something can't be used is left out.
    pub fn issue(&self, document: &str) -> Result<(), Error> {
        self.issued.store(Arc::new(Issued::read(document)?));
        Ok(())
    }

    /// For operators: each certificate with its names and its end, and each name that is asked of a directory.
    pub fn state(&self) -> (Value, Value) {
        let (files, issued) = (self.files.load(), self.issued.load());
        let certificates = files.shown.iter().chain(&issued.shown);
        (certificates.map(|shown| json!(shown)).collect(), json!(issued.hosts))
    }

    pub fn metrics(&self, page: &mut Page) {
        let (files, issued) = (self.files.load(), self.issued.load());
        // Of two that begin with the same name, that which ends first.
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

/// What operators are told of a certificate.
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
        // It tells when a certificate ends only once it has, so it is asked as of the last day.
        let last = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
        let usage = webpki::KeyUsage::server_auth();
        let not_after = match leaf.verify_for_usage(&[], &[], &[], last, usage, None, None) {
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
            _ => None,
        };
        Ok(Self { source, names, not_after })
    }
}

/// Certificates of files by the names that they are for.
#[derive(Debug)]
pub struct Table {
    /// For clients that name nothing, or what no other is for.
    first: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
    shown: Vec<Shown>,
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
        let mut table = Self { first: Arc::clone(&first), by_name: HashMap::new(), shown: Vec::new() };
        table.add(certificate, &first)?;
        for each in &config.certificates {
            table.add(&each.certificate, &read(&each.certificate, &each.key, &provider)?)?;
        }
        Ok(Some(table))
    }

    /// The first certificate for a name stays.
    fn add(&mut self, path: &str, certified: &Arc<CertifiedKey>) -> Result<(), Error> {
        let shown = Shown::of("file", certified).map_err(|error| wrong(path, &error))?;
        for name in &shown.names {
            self.by_name.entry(name.clone()).or_insert_with(|| Arc::clone(certified));
        }
        self.shown.push(shown);
        Ok(())
    }

    /// For a name in lower case.
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

/// All that is known of an ACME directory's names, as Python hands it over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    issued: Vec<Pair>,
    /// What the directory is to see, for the names that it looks for.
    challenges: Vec<Pair>,
    hosts: Vec<Host>,
}

/// A certificate, with those that vouch for it, and its key, in PEM.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    host: String,
    certificate: String,
    key: String,
}

/// How a name stands; passed on to operators as it is. Times are in seconds since 1970.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Host {
    host: String,
    ordering: bool,
    /// In a row.
    failures: u64,
    /// Why the last one failed.
    trouble: Option<String>,
    /// Not before that it is tried again.
    try_at: Option<f64>,
    renew_at: Option<f64>,
}

/// What a directory has issued, by name.
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

    /// Tell operators why a name isn't shown. The others are, and can be renewed: each hand-over is of all of them.
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

    /// What a directory looks for is marked as critical (RFC 8737, section 3), so that nobody else takes it for
    /// a certificate, and nor does what compares it with its key.
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

/// Look at the files of further certificates, whether or not there is a first one.
///
/// # Errors
/// One can't be read, or a key isn't its certificate's.
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

/// The two together, unless the key isn't the certificate's.
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
