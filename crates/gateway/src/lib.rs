//! The data plane: HTTP/1.1, HTTP/2 and HTTP/3 from clients, policies at each step, HTTP/1.1 or HTTP/2 to
//! instances.
//!
//! Each worker is one thread with its own runtime, listening socket (`SO_REUSEPORT`) and connections to
//! instances, so that requests share nothing but the policies across threads.

mod access_log;
mod addresses;
mod admin;
mod ambiguity;
mod attempt;
mod authorities;
mod balance;
mod cache;
mod certificates;
mod client;
mod compression;
mod config;
mod connection;
mod cors;
mod door;
mod early_data;
mod edge;
mod exchange;
mod forwarded;
#[cfg(fuzzing)]
pub mod fuzzing;
mod grpc;
mod grpc_health;
mod grpc_web;
mod headers;
mod health;
mod hints;
mod hook;
mod http1;
mod http2;
mod http3;
mod identity;
mod io;
mod json_line;
mod limit;
mod linger;
mod metrics;
mod mirror;
mod own_request;
mod places;
mod proxy;
mod proxy_protocol;
mod record;
mod redirect;
mod request_body;
mod respond;
mod rewrite;
mod route;
mod routing;
mod secret;
mod secure;
mod sent;
mod server;
mod service;
mod sessions;
mod shared;
mod snapshot;
mod split;
mod store;
mod strict;
mod tenants;
mod tickets;
mod timer;
mod tls;
mod tracing;
mod tunnel;
mod turns;
mod upload;
mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use config::Config;
use shared::Shared;

/// Why the gateway can't start or apply a change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid; nothing was started or changed.
    #[error("{0}")]
    Config(String),
    /// The same, with the full name of the setting at fault, such as `services.payments.tls.key`.
    #[error("{detail}")]
    Setting { setting: String, detail: String },
    /// An operating system call failed.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn parse(config_json: &str) -> Result<Config, Error> {
    Config::parse(config_json).map_err(|error| Error::Config(format!("gateway configuration: {error}")))
}

/// A running data plane; dropping it stops its threads.
pub struct Gateway {
    shared: Arc<Shared>,
    addresses: (String, String),
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The client port, until it is opened.
    closed: Mutex<Option<server::Closed>>,
}

impl Gateway {
    /// Validate the configuration, bind both ports, and serve the admin port on threads of its own. `open`
    /// accepts clients.
    ///
    /// # Errors
    /// `Error::Config` or `Error::Setting` for an invalid configuration, `Error::Io` for a port or a file.
    pub fn start(config_json: &str) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(parse(config_json)?)?);
        let server::Started { listen, admin, threads, closed } = server::start(&shared)?;
        let (threads, closed) = (Mutex::new(threads), Mutex::new(Some(closed)));
        Ok(Self { shared, addresses: (listen, admin), threads, closed })
    }

    /// Accept clients. Does nothing if the port is open already or the gateway is draining.
    ///
    /// # Errors
    /// `Error::Io` if another process has taken the port meanwhile: no client is accepted, and the call may
    /// be repeated.
    pub fn open(&self) -> Result<(), Error> {
        let mut port = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.draining() {
            *port = None;
        }
        let Some(closed) = port.as_mut() else { return Ok(()) };
        let workers = closed.open(&self.shared)?;
        *port = None;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).extend(workers);
        Ok(())
    }

    /// Routed services that aren't ready: no instance is known, or one hasn't been checked yet.
    #[must_use]
    pub fn unknown_services(&self) -> Vec<String> {
        self.shared.snapshot().unknown_services()
    }

    /// Validate a configuration without starting anything.
    ///
    /// # Errors
    /// As for `start`, except errors that only show when ports are bound or files are written.
    pub fn check(config_json: &str) -> Result<(), Error> {
        let config = Config { access_log: None, ..parse(config_json)? };
        certificates::check(&config)?;
        tickets::Tickets::load(config.ticket_secret.as_deref())
            .map_err(|error| Error::Setting { setting: "ticket_secret".into(), detail: error.to_string() })?;
        Shared::new(config).map(drop)
    }

    /// Apply another configuration completely or not at all; returns its version. Requests in flight finish
    /// under the old one. Limits, breakers, keys and counters whose settings are unchanged keep their state,
    /// and so do instances; new services start with these `instances` (each with its `host:port`).
    /// Certificates and CA files are read again.
    ///
    /// # Errors
    /// `Error::Config` and `Error::Setting` for an invalid configuration, or one that changes a setting fixed
    /// at the start (such as addresses, whether there is TLS, threads, the store of shared limits);
    /// `Error::Io` for the access log.
    pub fn reload(
        &self,
        config_json: &str,
        instances: &HashMap<String, Vec<(String, String)>>,
    ) -> Result<u64, Error> {
        let config = parse(config_json)?;
        let table = certificates::Table::load(&config)?;
        let version = self.shared.reload(config, instances)?;
        if let (Some(certificates), Some(table)) = (self.shared.certificates(), table) {
            certificates.replace(table);
        }
        Ok(version)
    }

    /// Install the certificates that an ACME directory has issued, and the challenge certificates that it
    /// validates, from the next handshake on. `document` is JSON (`certificates::Given`).
    ///
    /// # Errors
    /// `Error::Config` for invalid certificates, and without TLS; the certificates in use stay.
    pub fn certify(&self, document: &str) -> Result<(), Error> {
        let without = || Error::Config("certificates of a directory need TLS".into());
        self.shared.certificates().ok_or_else(without)?.issue(document)
    }

    /// The client and admin addresses, as `host:port`.
    #[must_use]
    pub fn addresses(&self) -> (String, String) {
        self.addresses.clone()
    }

    /// Replace the instances of a service: (instance, `host:port`). Unchanged instances keep their breakers.
    ///
    /// # Errors
    /// `Error::Config` for an unknown service.
    pub fn set_endpoints(&self, service: &str, endpoints: Vec<(String, String)>) -> Result<(), Error> {
        self.shared.set_endpoints(service, endpoints)
    }

    /// Purge answers from the cache. `document` and the result are JSON, as on the admin port.
    ///
    /// # Errors
    /// `Error::Config` for an invalid document, or if no route has a cache.
    pub fn purge(&self, document: &str) -> Result<String, Error> {
        self.shared.purge(document.as_bytes())
    }

    /// Hold an instance's breaker `open` or `closed`, or return it to `auto`.
    ///
    /// # Errors
    /// `Error::Config` for another mode, and for an unknown service or instance.
    pub fn hold_breaker(&self, service: &str, instance: &str, mode: &str) -> Result<(), Error> {
        self.shared.hold_breaker(service, instance, mode)
    }

    /// Change the weights of a route's split; `document` is JSON, as on the admin port.
    ///
    /// # Errors
    /// `Error::Config` for an invalid document, and for an unknown route or service.
    pub fn weigh(&self, document: &str) -> Result<(), Error> {
        self.shared.weigh(document.as_bytes())
    }

    /// Limits, breakers and counts, as JSON.
    #[must_use]
    pub fn state_json(&self) -> String {
        admin::state(&self.shared).to_string()
    }

    /// Refuse new connections, finish the requests in flight, and wait, at most `timeout`, until all clients
    /// have disconnected.
    pub fn drain(&self, timeout: Duration) {
        self.shared.drain();
        let deadline = Instant::now() + timeout;
        while self.shared.connections() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.drain();
        self.shared.stop();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A worker that panicked has reported it on standard error.
            let _ = thread.join();
        }
    }
}
