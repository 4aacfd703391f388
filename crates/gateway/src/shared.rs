//! State that lives as long as the gateway: connections, phase, link to the shared store, and the snapshot of
//! the configuration in force.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use counterfoil_policy::breaker::Mode;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::Error;
use crate::cache;
use crate::certificates::Certificates;
use crate::config::Config;
use crate::early_data;
use crate::exchange::Link;
use crate::proxy_protocol::Refused;
use crate::snapshot::Snapshot;
use crate::split;

/// The phases of a gateway's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// New connections are refused; existing ones end after their requests in flight.
    Draining,
    Ended,
}

pub struct Shared {
    pub link: Option<Arc<Link>>,
    pub requests: AtomicU64,
    /// Connections refused for lack of a place.
    pub turned_away: AtomicU64,
    /// Connections refused because no trusted proxy announced them.
    pub unannounced: Refused,
    /// Requests in early data, which may be replays.
    pub early_data: early_data::Counts,
    /// Set if clients connect with TLS.
    certificates: OnceLock<Arc<Certificates>>,
    snapshot: ArcSwap<Snapshot>,
    /// Serializes changes of the snapshot and of its instances.
    changing: Mutex<()>,
    /// Notified when instances change; wakes the health checks.
    pub instances_changed: Notify,
    version: watch::Sender<u64>,
    /// When the current configuration was loaded, and the outcome of the last attempt to change it.
    loaded_us: AtomicU64,
    refusals: AtomicU64,
    refused: Mutex<Option<String>>,
    connections: AtomicUsize,
    started: Instant,
    phase: watch::Sender<Phase>,
}

/// A client connection, counted until dropped.
pub struct Connected(Arc<Shared>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub fn new(config: Config) -> Result<Self, Error> {
        let link = config.shared_limits.as_ref().map(Link::new).transpose()?.map(Arc::new);
        let snapshot = Snapshot::new(config, link.as_ref(), None, 0)?;
        Ok(Self {
            link,
            requests: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            unannounced: Refused::default(),
            early_data: early_data::Counts::default(),
            certificates: OnceLock::new(),
            version: watch::Sender::new(snapshot.version),
            snapshot: ArcSwap::from_pointee(snapshot),
            changing: Mutex::default(),
            instances_changed: Notify::new(),
            loaded_us: AtomicU64::new(now_us()),
            refusals: AtomicU64::new(0),
            refused: Mutex::default(),
            connections: AtomicUsize::new(0),
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Serving),
        })
    }

    /// Set the certificates shown to clients; called once, at the start.
    pub fn shows(&self, certificates: Arc<Certificates>) {
        // Can't fail: a gateway starts once.
        let _ = self.certificates.set(certificates);
    }

    /// The certificates shown to clients; `None` without TLS.
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.certificates.get()
    }

    /// The snapshot in force. A request loads it once and uses it until it is answered.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Apply `config` completely or not at all; returns its version. New services start with `instances`.
    ///
    /// # Errors
    /// As for `Snapshot::new` and `Snapshot::ready`, and `Error::Config` for a change that needs a restart.
    pub fn reload(
        &self,
        config: Config,
        instances: &HashMap<String, Vec<(String, String)>>,
    ) -> Result<u64, Error> {
        let outcome = self.replace(config, instances);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(_) => self.loaded_us.store(now_us(), Ordering::Relaxed),
            Err(_) => _ = self.refusals.fetch_add(1, Ordering::Relaxed),
        }
        *refused = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    /// For the admin port: which configuration is in force, and why the last one was refused, if it was.
    pub fn configuration_state(&self) -> Value {
        json!({
            "version": self.snapshot().version,
            "loaded_us": self.loaded_us.load(Ordering::Relaxed),
            "refusals": self.refusals.load(Ordering::Relaxed),
            "refused": *self.refused.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// Number of refused configurations, and when the current one was loaded (microseconds since 1970).
    pub fn configuration_counts(&self) -> (u64, u64) {
        (self.refusals.load(Ordering::Relaxed), self.loaded_us.load(Ordering::Relaxed))
    }

    fn replace(
        &self,
        config: Config,
        instances: &HashMap<String, Vec<(String, String)>>,
    ) -> Result<u64, Error> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        if let Some(setting) = before.config.fixed_at_start(&config) {
            let detail = "can't change while the gateway runs: leave it as it is, or start the gateway again";
            return Err(Error::Config(format!("{setting} {detail}")));
        }
        let now_ns = self.nanoseconds(Instant::now());
        let next = Snapshot::new(config, self.link.as_ref(), Some(&before), now_ns)?;
        runtime().and_then(|runtime| runtime.block_on(next.ready()))?;
        for (name, upstream) in &next.upstreams {
            if let (None, Some(known)) = (before.upstreams.get(name), instances.get(name)) {
                upstream.set_endpoints(known.clone(), now_ns)?;
            }
        }
        let version = next.version;
        let next = Arc::new(next);
        self.snapshot.store(Arc::clone(&next));
        for (name, upstream) in &next.upstreams {
            if before.upstreams.get(name).is_none_or(|known| !Arc::ptr_eq(known, upstream)) {
                upstream.enforce();
            }
        }
        self.instances_changed.notify_one();
        self.version.send_replace(version);
        Ok(version)
    }

    /// Replace the instances of a service.
    pub fn set_endpoints(&self, service: &str, endpoints: Vec<(String, String)>) -> Result<(), Error> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.snapshot()
            .upstreams
            .get(service)
            .ok_or_else(|| Error::Config(format!("no route leads to service {service}")))?
            .set_endpoints(endpoints, self.nanoseconds(Instant::now()))?;
        self.instances_changed.notify_one();
        Ok(())
    }

    /// Hold a breaker `open` or `closed`, or return it to `auto`.
    ///
    /// # Errors
    /// `Error::Config` for another mode, or an unknown service or instance.
    pub fn hold_breaker(&self, service: &str, instance: &str, mode: &str) -> Result<(), Error> {
        let mode = match mode {
            "auto" => Mode::Auto,
            "open" => Mode::HeldOpen,
            "closed" => Mode::HeldClosed,
            _ => return Err(Error::Config(format!("{mode:?}: a breaker is held open, closed or auto"))),
        };
        self.snapshot()
            .upstreams
            .get(service)
            .ok_or_else(|| Error::Config(format!("no route leads to service {service}")))?
            .hold_breaker(instance, mode, self.nanoseconds(Instant::now()))
    }

    /// Change the weights of the split that a JSON document names (`split::Change`).
    ///
    /// # Errors
    /// `Error::Config` for an invalid document, and for an unknown route or service.
    pub fn weigh(&self, document: &[u8]) -> Result<(), Error> {
        let change = serde_json::from_slice(document)
            .map_err(|error| Error::Config(format!("send {{\"path\": ..., \"weights\": {{}}}}: {error}")))?;
        // A concurrent reload might copy the old weights.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        split::weigh(&self.snapshot().routes, &change).map_err(Error::Config)
    }

    /// Purge from the cache what a JSON document selects (`cache::purge`); returns what was purged, as JSON.
    ///
    /// # Errors
    /// `Error::Config` for an invalid document, or if no route has a cache.
    pub fn purge(&self, document: &[u8]) -> Result<String, Error> {
        let snapshot = self.snapshot();
        let store = snapshot.cache.as_ref().ok_or_else(|| Error::Config("no route has a cache".into()))?;
        let purged =
            cache::purge(store, document, self.nanoseconds(Instant::now())).map_err(Error::Config)?;
        serde_json::to_string(&purged).map_err(|error| Error::Config(error.to_string()))
    }

    /// The version in force, to wait for the next one.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Nanoseconds since the start on a monotonic clock, as the policies use it.
    pub fn nanoseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// Number of client connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether the gateway is draining or has ended.
    pub fn draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    pub fn drain(&self) {
        self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
    }

    pub fn stop(&self) {
        self.phase.send_replace(Phase::Ended);
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

/// A runtime for blocking on a future in a thread that serves no requests.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("runtime"))
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
