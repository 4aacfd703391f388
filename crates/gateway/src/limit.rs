//! A limit of a route: the cells that decide, and what is said while the shared store is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_policy::gcra::{Decision, Gcra};
use counterfoil_policy::shared_gcra::SharedGcra;
use hyper::StatusCode;

use crate::Error;
use crate::config::{self, Fallback, LimitKey};
use crate::exchange::Link;
use crate::respond::Problem;

/// Keys that one limit remembers, at some 100 bytes each.
const KEYS: usize = 1_000_000;

enum Cells {
    Local(Gcra),
    Shared { cells: SharedGcra, link: Arc<Link>, fallback: Fallback },
}

pub struct Limit {
    pub name: String,
    pub key: LimitKey,
    pub allowed: AtomicU64,
    pub refused: AtomicU64,
    cells: Cells,
}

impl Limit {
    pub fn new(name: &str, config: &config::Limit, link: Option<&Arc<Link>>) -> Result<Self, Error> {
        if !(config.rate.is_finite() && config.rate > 0.0) {
            return Err(Error::Config(format!("limit {name}: the rate must be above 0")));
        }
        let cells = match link {
            None => Cells::Local(Gcra::new(config.rate, config.burst, KEYS)),
            Some(link) => Cells::Shared {
                cells: SharedGcra::new(config.rate, config.burst, KEYS),
                link: Arc::clone(link),
                fallback: config.fallback,
            },
        };
        Ok(Self {
            name: name.into(),
            key: config.key,
            allowed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            cells,
        })
    }

    /// Let one request of `key` pass, or say why not.
    pub fn pass(&self, key: &str, now_ns: u64) -> Result<(), Problem> {
        let decision = match &self.cells {
            Cells::Local(cells) => cells.check(key, now_ns),
            Cells::Shared { link, fallback: Fallback::Refuse, .. } if !link.connected() => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let detail = format!("limit {} can't be told from its store at the moment", self.name);
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1));
            }
            Cells::Shared { cells, .. } => cells.check(key, now_ns),
        };
        match decision {
            Decision::Allowed => {
                self.allowed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Decision::Refused { retry_after_ns } => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let detail = format!("limit {} is used up", self.name);
                let seconds = retry_after_ns.div_ceil(1_000_000_000);
                Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds))
            }
        }
    }

    /// The cells that other gateways are told of.
    pub fn shared(&self) -> Option<&SharedGcra> {
        match &self.cells {
            Cells::Local(_) => None,
            Cells::Shared { cells, .. } => Some(cells),
        }
    }

    /// How many keys are remembered.
    pub fn keys(&self) -> usize {
        match &self.cells {
            Cells::Local(cells) => cells.keys(),
            Cells::Shared { cells, .. } => cells.keys(),
        }
    }
}
