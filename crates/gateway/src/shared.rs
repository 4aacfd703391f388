//! What all workers share: configuration, keys, policies, counts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::exchange::Link;
use crate::identity::{Bearer, Key};
use crate::limit::Limit;
use crate::service::Upstream;
use crate::{Error, config};

/// Tokens whose signature was checked before. A full cache is emptied: simple, bounded, and the
/// cost is one verification for each live token.
const TOKENS: usize = 65_536;
/// Upper bounds of the duration histogram, in microseconds.
pub const BUCKETS: [u64; 14] = [
    250,
    500,
    1_000,
    2_000,
    4_000,
    8_000,
    16_000,
    32_000,
    64_000,
    128_000,
    256_000,
    1_000_000,
    4_000_000,
    u64::MAX,
];

pub struct Route {
    pub config: config::Route,
    pub limits: Vec<Arc<Limit>>,
    pub upstream: Arc<Upstream>,
    /// Answers by class of status, 1xx to 5xx.
    pub answers: [AtomicU64; 5],
    pub durations: [AtomicU64; BUCKETS.len()],
    pub duration_sum_us: AtomicU64,
}

/// Where a gateway stands between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Nobody new is let in; connections end after the requests that are under way.
    Draining,
    Ended,
}

pub struct Shared {
    pub config: Config,
    pub keys: ArcSwap<HashMap<String, Key>>,
    pub unknown_key: Notify,
    pub jwks_failures: AtomicU64,
    pub tokens: Mutex<HashMap<Box<str>, Arc<Bearer>>>,
    pub routes: Vec<Route>,
    pub limits: Vec<Arc<Limit>>,
    pub link: Option<Arc<Link>>,
    pub upstreams: HashMap<String, Arc<Upstream>>,
    pub access_log: Option<AccessLog>,
    pub requests: AtomicU64,
    connections: AtomicUsize,
    started: Instant,
    phase: watch::Sender<Phase>,
}

/// A client's connection, counted for as long as this lives.
pub struct Connected(Arc<Shared>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub fn new(config: Config) -> Result<Self, Error> {
        let link = config.shared_limits.as_ref().map(Link::new).transpose()?.map(Arc::new);
        let limits: HashMap<_, _> = config
            .limits
            .iter()
            .map(|(name, limit)| Ok((name.clone(), Arc::new(Limit::new(name, limit, link.as_ref())?))))
            .collect::<Result<_, Error>>()?;
        let upstreams: HashMap<_, _> = config
            .services
            .iter()
            .map(|(name, service)| {
                let upstream = Upstream::new(name, service)?;
                Ok((name.clone(), Arc::new(upstream)))
            })
            .collect::<Result<_, Error>>()?;
        let routes = config
            .routes
            .iter()
            .map(|route| {
                let unknown = |what: &str, name: &str| {
                    Error::Config(format!("route {}: unknown {what} {name}", route.path))
                };
                Ok(Route {
                    limits: route
                        .limits
                        .iter()
                        .map(|name| limits.get(name).cloned().ok_or_else(|| unknown("limit", name)))
                        .collect::<Result<_, _>>()?,
                    upstream: upstreams
                        .get(&route.service)
                        .cloned()
                        .ok_or_else(|| unknown("service", &route.service))?,
                    config: config::Route {
                        path: route.path.clone(),
                        methods: route.methods.clone(),
                        service: route.service.clone(),
                        identity: route.identity,
                        limits: route.limits.clone(),
                    },
                    answers: Default::default(),
                    durations: Default::default(),
                    duration_sum_us: AtomicU64::new(0),
                })
            })
            .collect::<Result<_, Error>>()?;
        if config.identity.is_none() && config.routes.iter().any(|route| route.identity) {
            return Err(Error::Config("a route asks for an identity, but no identity is configured".into()));
        }
        let access_log = config
            .access_log
            .as_ref()
            .map(|path| AccessLog::open(Path::new(path)).map_err(Error::io(format!("access log {path}"))))
            .transpose()?;
        let mut limits: Vec<_> = limits.into_values().collect();
        limits.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self {
            keys: ArcSwap::default(),
            unknown_key: Notify::new(),
            jwks_failures: AtomicU64::new(0),
            tokens: Mutex::default(),
            routes,
            limits,
            link,
            upstreams,
            access_log,
            requests: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Serving),
            config,
        })
    }

    pub fn set_endpoints(&self, service: &str, endpoints: Vec<(String, String)>) -> Result<(), Error> {
        self.upstreams
            .get(service)
            .ok_or_else(|| Error::Config(format!("no route leads to service {service}")))?
            .set_endpoints(endpoints)
    }

    /// Nanoseconds of a monotonic clock: what policies are told.
    pub fn nanoseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether this gateway lets nobody new in any more.
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

    pub fn known_token(&self, token: &str, now: u64) -> Option<Arc<Bearer>> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(token).filter(|bearer| bearer.expires > now).cloned()
    }

    pub fn remember_token(&self, token: &str, bearer: &Arc<Bearer>) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS {
            tokens.clear();
        }
        tokens.insert(token.into(), Arc::clone(bearer));
    }
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
