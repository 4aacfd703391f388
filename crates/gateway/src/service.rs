//! A service as the gateway sees it: its instances, their breakers, and what is under way to it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use counterfoil_policy::breaker::Breaker;
use hyper::header::HeaderValue;

use crate::Error;
use crate::config::Service;

pub struct Endpoint {
    pub instance: String,
    pub address: String,
    /// The address, as the Host of a request.
    pub host: HeaderValue,
    pub breaker: Mutex<Breaker>,
}

impl Endpoint {
    fn new(instance: String, address: String, config: &Service) -> Result<Arc<Self>, Error> {
        let host = HeaderValue::from_str(&address)
            .map_err(|_| Error::Config(format!("instance {instance}: {address:?} is no address")))?;
        let open_ns = (config.breaker_open_seconds * 1e9) as u64;
        let breaker = Mutex::new(Breaker::new(config.breaker_failures, open_ns));
        Ok(Arc::new(Self { instance, address, host, breaker }))
    }
}

pub struct Upstream {
    pub config: Service,
    pub attempt_timeout: Duration,
    pub tunnel_idle: Duration,
    /// Shared with the upstreams of this service in earlier and later configurations: what is under
    /// way is under way whatever the settings were when it began.
    pub in_flight: Arc<AtomicUsize>,
    /// The same for connections that left HTTP behind.
    pub tunnels: Arc<AtomicUsize>,
    pub endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    pub next: AtomicUsize,
}

impl Upstream {
    /// The upstream of a service in a new configuration. One whose settings are the same as `before`
    /// is the same; one with new settings goes on with the same instances, and with their breakers
    /// too, unless it is those whose settings changed.
    pub fn new(name: &str, config: &Service, before: Option<&Arc<Self>>) -> Result<Arc<Self>, Error> {
        if let Some(same) = before.filter(|before| before.config == *config) {
            return Ok(Arc::clone(same));
        }
        let attempt_timeout = Duration::try_from_secs_f64(config.attempt_timeout_seconds)
            .map_err(|error| Error::Config(format!("service {name}: attempt timeout: {error}")))?;
        let tunnel_idle = Duration::try_from_secs_f64(config.tunnel_idle_seconds)
            .map_err(|error| Error::Config(format!("service {name}: tunnel idle time: {error}")))?;
        let upstream = Self {
            config: config.clone(),
            attempt_timeout,
            tunnel_idle,
            in_flight: before.map(|before| Arc::clone(&before.in_flight)).unwrap_or_default(),
            tunnels: before.map(|before| Arc::clone(&before.tunnels)).unwrap_or_default(),
            endpoints: ArcSwap::default(),
            next: AtomicUsize::new(0),
        };
        if let Some(before) = before {
            let endpoints = before.endpoints.load_full();
            upstream.endpoints.store(if before.config.same_breaker(config) {
                endpoints
            } else {
                let renewed = endpoints
                    .iter()
                    .map(|each| Endpoint::new(each.instance.clone(), each.address.clone(), config));
                Arc::new(renewed.collect::<Result<_, _>>()?)
            });
        }
        Ok(Arc::new(upstream))
    }

    /// Replace the instances: (instance, `host:port`). Those that stay keep their breakers.
    pub fn set_endpoints(&self, endpoints: Vec<(String, String)>) -> Result<(), Error> {
        let known = self.endpoints.load_full();
        let endpoints = endpoints
            .into_iter()
            .map(|(instance, address)| {
                match known.iter().find(|each| each.instance == instance && each.address == address) {
                    Some(same) => Ok(Arc::clone(same)),
                    None => Endpoint::new(instance, address, &self.config),
                }
            })
            .collect::<Result<_, Error>>()?;
        self.endpoints.store(Arc::new(endpoints));
        Ok(())
    }

    /// Take one more tunnel, which is open for as long as the permit lives.
    pub fn admit_tunnel(&self) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.tunnels));
        let before = self.tunnels.fetch_add(1, Ordering::Relaxed);
        (before < self.config.tunnels).then_some(permit)
    }

    /// Take one more request, unless there are as many under way as there may be.
    pub fn admit(&self) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.in_flight));
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        (before < self.config.concurrency).then_some(permit)
    }
}

/// A request under way to a service, counted for as long as this lives.
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
