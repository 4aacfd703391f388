//! A service as the gateway sees it: its instances, and how many requests it has.

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

pub struct Upstream {
    pub config: Service,
    pub attempt_timeout: Duration,
    pub in_flight: AtomicUsize,
    pub endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    pub next: AtomicUsize,
}

impl Upstream {
    pub fn new(name: &str, config: &Service) -> Result<Self, Error> {
        let attempt_timeout = Duration::try_from_secs_f64(config.attempt_timeout_seconds)
            .map_err(|error| Error::Config(format!("service {name}: attempt timeout: {error}")))?;
        Ok(Self {
            config: config.clone(),
            attempt_timeout,
            in_flight: AtomicUsize::new(0),
            endpoints: ArcSwap::default(),
            next: AtomicUsize::new(0),
        })
    }

    /// Replace the instances; those that stay keep their state.
    pub fn set_endpoints(&self, endpoints: Vec<(String, String)>) -> Result<(), Error> {
        let known = self.endpoints.load_full();
        let endpoints = endpoints
            .into_iter()
            .map(|(instance, address)| {
                if let Some(same) =
                    known.iter().find(|each| each.instance == instance && each.address == address)
                {
                    return Ok(Arc::clone(same));
                }
                let host = HeaderValue::from_str(&address)
                    .map_err(|_| Error::Config(format!("instance {instance}: {address:?} is no address")))?;
                let open_ns = (self.config.breaker_open_seconds * 1e9) as u64;
                let breaker = Mutex::new(Breaker::new(self.config.breaker_failures, open_ns));
                Ok(Arc::new(Endpoint { instance, address, host, breaker }))
            })
            .collect::<Result<_, Error>>()?;
        self.endpoints.store(Arc::new(endpoints));
        Ok(())
    }

    /// Take one more request, unless there are as many under way as there may be.
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        let permit = Permit(Arc::clone(self));
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        (before < self.config.concurrency).then_some(permit)
    }
}

/// A request under way to a service, counted for as long as this lives.
pub struct Permit(Arc<Upstream>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
