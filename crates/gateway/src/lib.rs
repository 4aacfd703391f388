//! The data plane: HTTP/1.1 and HTTP/2 in, a policy at each step, HTTP/1.1 or HTTP/2 to
//! the instances.
//!
//! Each worker is one thread with a runtime, a listening socket (`SO_REUSEPORT`) and connections
//! to the instances of its own, so that nothing on the way of a request is shared but the policies.

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

/// Why the gateway can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong; nothing was started.
    #[error("{0}")]
    Config(String),
    /// The same, where one setting is to blame: its whole name, such as `services.payments.tls.key`.
    #[error("{detail}")]
    Setting { setting: String, detail: String },
    /// The operating system refused something.
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

/// A running data plane; dropping it ends its threads.
pub struct Gateway {
    shared: Arc<Shared>,
    addresses: (String, String),
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The port of clients, until it is opened.
    closed: Mutex<Option<server::Closed>>,
}

impl Gateway {
    /// Check the whole configuration, bind both ports, then serve operators on threads of its own.
    /// Clients are let in by `open`.
    ///
    /// # Errors
    /// `Error::Config` for a configuration that can't be used, `Error::Io` for a port or a file.
    pub fn start(config_json: &str) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(parse(config_json)?)?);
        let server::Started { listen, admin, threads, closed } = server::start(&shared)?;
        let (threads, closed) = (Mutex::new(threads), Mutex::new(Some(closed)));
        Ok(Self { shared, addresses: (listen, admin), threads, closed })
    }

    /// Let clients in; once they are, or once it is drained, this does nothing.
    ///
    /// # Errors
    /// `Error::Io` for a port that somebody else has taken meanwhile: nobody is let in, and it may be
    /// tried again.
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

    /// The services of routes that can't be asked yet: no instance is known, or one was not
    /// checked yet.
    #[must_use]
    pub fn unknown_services(&self) -> Vec<String> {
        self.shared.snapshot().unknown_services()
    }

    /// Look whether a configuration could be started with, and leave it at that.
    ///
    /// # Errors
    /// As for `start`, but for what only shows when ports are bound and files are written.
    pub fn check(config_json: &str) -> Result<(), Error> {
        let config = Config { access_log: None, ..parse(config_json)? };
        certificates::check(&config)?;
        tickets::Tickets::load(config.ticket_secret.as_deref())
            .map_err(|error| Error::Setting { setting: "ticket_secret".into(), detail: error.to_string() })?;
        Shared::new(config).map(drop)
    }

    /// Put another configuration into force, all of it or nothing; its version. What is under way
    /// ends as it began. Limits, breakers, keys and counts that are configured as before go on, and so do
    /// instances; services that are new begin with these `instances` (each with its `host:port`).
    /// Certificates are read anew, and so is whom to trust.
    ///
    /// # Errors
    /// `Error::Config` and `Error::Setting` for a configuration that can't be used, or that changes what is settled at
    /// the start (addresses, whether there is TLS, threads, the store of shared limits); `Error::Io` for the
    /// access log.
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

    /// Show clients what an ACME directory has issued, and directories the proofs that they look for, from the
    /// next handshake on; `document` is JSON (`certificates::Given`).
    ///
    /// # Errors
    /// `Error::Config` for what can't be used, and where there is no TLS: what was shown before still is.
    pub fn certify(&self, document: &str) -> Result<(), Error> {
        let without = || Error::Config("certificates of a directory need TLS".into());
        self.shared.certificates().ok_or_else(without)?.issue(document)
    }

    /// Where clients and operators are listened to, as `host:port`.
    #[must_use]
    pub fn addresses(&self) -> (String, String) {
        self.addresses.clone()
    }

    /// Replace the instances of a service: (instance, `host:port`). Breakers of those that stay
    /// keep their state.
    ///
    /// # Errors
    /// `Error::Config` for a service that no route names.
    pub fn set_endpoints(&self, service: &str, endpoints: Vec<(String, String)>) -> Result<(), Error> {
        self.shared.set_endpoints(service, endpoints)
    }

    /// Purge answers from the cache; `document` and what comes back are JSON, as they are on the
    /// operators' port.
    ///
    /// # Errors
    /// `Error::Config` for a document that makes no sense, or without a route that has a cache.
    pub fn purge(&self, document: &str) -> Result<String, Error> {
        self.shared.purge(document.as_bytes())
    }

    /// Let an operator decide over the breaker of an instance: `open`, `closed`, or `auto` to let go.
    ///
    /// # Errors
    /// `Error::Config` for another word, and for a service or an instance that isn't there.
    pub fn hold_breaker(&self, service: &str, instance: &str, mode: &str) -> Result<(), Error> {
        self.shared.hold_breaker(service, instance, mode)
    }

    /// Change the weights of a route's split; `document` is JSON, as it is on the operators' port.
    ///
    /// # Errors
    /// `Error::Config` for a document that makes no sense, and for a route or a service that isn't there.
    pub fn weigh(&self, document: &str) -> Result<(), Error> {
        self.shared.weigh(document.as_bytes())
    }

    /// Limits, breakers and counts, as JSON.
    #[must_use]
    pub fn state_json(&self) -> String {
        admin::state(&self.shared).to_string()
    }

    /// Let nobody new in, finish what is under way, and wait, at most `timeout`, until every client
    /// is gone.
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
            // A worker that panicked has said so on standard error; there is nobody to tell here.
            let _ = thread.join();
        }
    }
}
