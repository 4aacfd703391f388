//! A service at runtime: instances, breakers, requests in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use counterfoil_policy::balance::{self, PeakEwma};
use counterfoil_policy::breaker::{Breaker, Mode};
use counterfoil_policy::bulkhead::Bulkhead;
use counterfoil_policy::gradient::Gradient;
use counterfoil_policy::health::State;
use counterfoil_policy::retry_budget::RetryBudget;
use hyper::header::HeaderValue;

use crate::Error;
use crate::config::{Balance, Service};
use crate::health::{Checks, Counts, Probe};
use crate::places::{Place, Places, Rank, Share};
use crate::respond::Problem;
use crate::upstream::tls::{self, Tls};
use crate::upstream::{Lifetimes, Target, Timeouts};

pub struct Endpoint {
    pub instance: String,
    pub address: String,
    /// The Host header for requests to it.
    pub host: HeaderValue,
    pub breaker: Breaker,
    /// Requests in flight.
    pub in_flight: AtomicUsize,
    /// Set if latency counts in load balancing.
    pub latency: Option<PeakEwma>,
    /// Start of its slow start: when it was discovered, or last became healthy.
    pub since_ns: AtomicU64,
    /// Set if the service has health checks.
    pub checks: Option<Checks>,
}

impl Endpoint {
    fn new(
        instance: String,
        address: String,
        config: &Service,
        probe: Option<&Arc<Probe>>,
        now_ns: u64,
    ) -> Result<Arc<Self>, Error> {
        let host = HeaderValue::from_str(&tls::authority(config.tls.as_ref(), &address))
            .map_err(|_| Error::Config(format!("instance {instance}: {address:?} is no address")))?;
        Ok(Arc::new(Self {
            instance,
            address,
            host,
            breaker: Breaker::new(config.breaker(), now_ns),
            in_flight: AtomicUsize::new(0),
            latency: (config.balance == Balance::PeakEwma).then(PeakEwma::default),
            since_ns: AtomicU64::new(now_ns),
            checks: probe.map(|probe| Checks::new(probe, now_ns)),
        }))
    }
}

pub struct Upstream {
    pub config: Service,
    /// Set if instances are reached with TLS.
    pub tls: Option<Arc<Tls>>,
    pub timeouts: Timeouts,
    /// For all attempts together, including the wait for a place.
    pub request_timeout: Option<Duration>,
    pub hedge_after: Option<Duration>,
    pub tunnel_idle: Duration,
    /// Open tunnels. The counter is shared with this service's upstreams in earlier and later configurations:
    /// a tunnel counts whatever the settings were when it began.
    pub tunnels: Arc<AtomicUsize>,
    pub queue_timeout: Duration,
    pub places: Arc<Places>,
    /// Adapts the number of places, if that is configured.
    pub gradient: Option<Arc<Gradient>>,
    /// Set if there is a limit per tenant.
    pub tenants: Option<Arc<Bulkhead>>,
    pub endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    pub balance: balance::Settings,
    /// The health check probe, if configured.
    pub probe: Option<Arc<Probe>>,
    pub probes: Arc<Counts>,
    pub retries: Arc<RetryBudget>,
    /// Number of retries.
    pub repeated: AtomicU64,
    /// Retries refused by the retry budget.
    pub unpaid: AtomicU64,
    pub hedges: AtomicU64,
    /// Whether instances' latency is recorded.
    pub learns: bool,
}

impl Upstream {
    /// The upstream of a service in a new configuration. With unchanged settings it is `before` itself;
    /// otherwise it keeps the instances, and their breakers too unless the breakers' own settings changed.
    pub fn new(
        name: &str,
        config: &Service,
        before: Option<&Arc<Self>>,
        now_ns: u64,
    ) -> Result<Arc<Self>, Error> {
        let tls = Tls::load(name, config, before.and_then(|before| before.tls.as_ref()))?;
        let same_tls =
            |before: &Self| before.tls.as_ref().map(|tls| tls.id) == tls.as_ref().map(|tls| tls.id);
        if let Some(same) = before.filter(|before| before.config == *config && same_tls(before)) {
            return Ok(Arc::clone(same));
        }
        let seconds = |what: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|error| Error::Config(format!("service {name}: {what}: {error}")))
        };
        let optional = |what: &str, given: Option<f64>| given.map(|given| seconds(what, given)).transpose();
        let known = before.map(|before| &before.config);
        let same =
            |setting: fn(&Service) -> usize| known.is_some_and(|known| setting(known) == setting(config));
        let (least, most) = (config.least_concurrency, config.concurrency);
        let gradient = config.adaptive_concurrency.then(|| {
            let known = before.and_then(|before| before.gradient.as_ref());
            known
                .filter(|_| same(|config| config.concurrency) && same(|config| config.least_concurrency))
                .map_or_else(|| Arc::new(Gradient::new(least, most)), Arc::clone)
        });
        let limit = places_at_first(config, gradient.as_deref());
        let places = match before {
            Some(before) => Arc::clone(&before.places),
            None => Places::new(limit, config.queue),
        };
        let tenants = (config.tenant_concurrency > 0).then(|| {
            let known = before.and_then(|before| before.tenants.as_ref());
            known
                .filter(|_| same(|config| config.tenant_concurrency))
                .map_or_else(|| Arc::new(Bulkhead::new(config.tenant_concurrency)), Arc::clone)
        });
        // Counters never decrease.
        let carried = |count: fn(&Self) -> &AtomicU64| {
            AtomicU64::new(before.map_or(0, |before| count(before).load(Ordering::Relaxed)))
        };
        let probes = before.map(|before| Arc::clone(&before.probes)).unwrap_or_default();
        let upstream = Self {
            config: config.clone(),
            tls,
            timeouts: Timeouts {
                connect: seconds("connect timeout", config.connect_timeout_seconds)?,
                answer: seconds("attempt timeout", config.attempt_timeout_seconds)?,
                idle: seconds(
                    "idle timeout",
                    config.idle_timeout_seconds.unwrap_or(config.attempt_timeout_seconds),
                )?,
                lifetimes: Lifetimes {
                    idle: seconds("connection idle time", config.connection_idle_seconds)?,
                    age: seconds("connection age", config.connection_age_seconds)?,
                },
            },
            request_timeout: optional("request timeout", config.request_timeout_seconds)?,
            hedge_after: optional("hedge", config.hedge_after_seconds)?,
            tunnel_idle: seconds("tunnel idle time", config.tunnel_idle_seconds)?,
            tunnels: before.map(|before| Arc::clone(&before.tunnels)).unwrap_or_default(),
            queue_timeout: seconds("queue timeout", config.queue_timeout_seconds)?,
            places,
            gradient,
            tenants,
            endpoints: ArcSwap::default(),
            balance: balance::Settings {
                slow_start_ns: (config.slow_start_seconds * 1e9) as u64,
                panic_share: config.panic_share,
            },
            probe: Probe::new(name, config, &probes)?,
            probes,
            retries: before.filter(|before| before.config.retry_budget == config.retry_budget).map_or_else(
                || Arc::new(RetryBudget::new(config.retry_budget)),
                |before| Arc::clone(&before.retries),
            ),
            repeated: carried(|before| &before.repeated),
            unpaid: carried(|before| &before.unpaid),
            hedges: carried(|before| &before.hedges),
            learns: config.adaptive_concurrency || config.balance == Balance::PeakEwma,
        };
        if let Some(before) = before {
            let endpoints = before.endpoints.load_full();
            upstream.endpoints.store(if before.config.same_endpoints(config) {
                endpoints
            } else {
                let probe = upstream.probe.as_ref();
                let renewed = endpoints.iter().map(|each| {
                    Endpoint::new(each.instance.clone(), each.address.clone(), config, probe, now_ns)
                });
                Arc::new(renewed.collect::<Result<_, _>>()?)
            });
        }
        Ok(Arc::new(upstream))
    }

    /// Apply this configuration's bounds to the places, which earlier configurations share. Called only once
    /// it is in force, since a refused configuration must change nothing.
    pub fn enforce(&self) {
        self.places.resize(places_at_first(&self.config, self.gradient.as_deref()), self.config.queue);
    }

    /// Replace the instances: (instance, `host:port`). Unchanged instances keep their breakers.
    pub fn set_endpoints(&self, endpoints: Vec<(String, String)>, now_ns: u64) -> Result<(), Error> {
        let known = self.endpoints.load_full();
        let endpoints = endpoints
            .into_iter()
            .map(|(instance, address)| {
                match known.iter().find(|each| each.instance == instance && each.address == address) {
                    Some(same) => Ok(Arc::clone(same)),
                    None => Endpoint::new(instance, address, &self.config, self.probe.as_ref(), now_ns),
                }
            })
            .collect::<Result<_, Error>>()?;
        self.endpoints.store(Arc::new(endpoints));
        Ok(())
    }

    /// How to reach an instance.
    pub fn target<'a>(&'a self, endpoint: &'a Endpoint) -> Target<'a> {
        let Endpoint { instance, address, .. } = endpoint;
        Target { instance, address, protocol: self.config.protocol, tls: self.tls.as_ref() }
    }

    /// Whether it has a known instance, and no instance waits for its first health check.
    pub fn is_known(&self) -> bool {
        let endpoints = self.endpoints.load();
        let is_checked = |each: &Arc<Endpoint>| {
            each.checks.as_ref().is_none_or(|checks| checks.health.view().state != State::Unchecked)
        };
        !endpoints.is_empty() && endpoints.iter().all(is_checked)
    }

    /// Open one more tunnel, counted until the permit is dropped; `None` at the limit.
    pub fn admit_tunnel(&self) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.tunnels));
        let before = self.tunnels.fetch_add(1, Ordering::Relaxed);
        (before < self.config.tunnels).then_some(permit)
    }

    /// Admit a request to the service, at once or after waiting in the queue.
    ///
    /// # Errors
    /// A 503 if no place is free in time, a 429 if the tenant is at its limit.
    pub async fn admit(&self, tenant: &str, rank: impl FnOnce() -> Rank) -> Result<Admitted, Problem> {
        let share = match &self.tenants {
            Some(tenants) => Some(Share::take(tenants, tenant)?),
            None => None,
        };
        let (place, waited) = match self.places.take() {
            Some(place) => (place, false),
            None => (Box::pin(self.places.wait(rank(), self.queue_timeout)).await?, true),
        };
        Ok(Admitted { waited, _place: place, _share: share })
    }

    /// Hold an instance's breaker open or closed, or return it to automatic operation.
    ///
    /// # Errors
    /// `Error::Config` for an unknown instance.
    pub fn hold_breaker(&self, instance: &str, mode: Mode, now_ns: u64) -> Result<(), Error> {
        let endpoints = self.endpoints.load();
        let found = endpoints.iter().find(|each| each.instance == instance);
        let endpoint = found.ok_or_else(|| Error::Config(format!("there is no instance {instance}")))?;
        endpoint.breaker.hold(mode, now_ns);
        Ok(())
    }

    /// Record how long an instance took to answer, or to time out.
    pub fn took(&self, endpoint: &Endpoint, took: Duration, now_ns: u64) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(latency) = &endpoint.latency {
            latency.record(took_ns, now_ns);
        }
        if let Some(gradient) = &self.gradient
            && let Some(limit) = gradient.record(took_ns, self.places.in_flight(), now_ns)
        {
            self.places.set_limit(limit);
        }
    }
}

/// The configured number of places, or the current limit of a gradient taken over.
fn places_at_first(config: &Service, gradient: Option<&Gradient>) -> usize {
    gradient.map_or(config.concurrency, Gradient::limit)
}

/// A request admitted to a service, counted until dropped.
pub struct Admitted {
    pub waited: bool,
    _place: Place,
    _share: Option<Share>,
}

/// An open tunnel, counted until dropped.
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
