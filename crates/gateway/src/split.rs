//! Traffic splits: a route's requests are divided between services by weight. `policy::split` chooses the
//! service; this module extracts the key of a request, and lets operators change and see the weights.
//!
//! The choice is made once, after identity, limits and hooks. From then on the request uses the chosen
//! service's places, breakers, timeouts, retries, connections and cache. So cached answers of different
//! versions don't mix, and purges, which select by URL and tag over the whole store, reach all of them.
//!
//! Configured weights apply until an operator changes them. Such a change lasts, like a held breaker, until
//! it is reverted, a reload changes the split, or the gateway ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use counterfoil_policy::split::Split as Shares;
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;
use crate::admin::quantile;
use crate::config::{self, Config, LimitKey};
use crate::metrics::Page;
use crate::proxy::Seen;
use crate::route::{BUCKETS, Counts, Leads, Route, Target};
use crate::snapshot::Snapshot;

pub struct Split {
    config: config::Split,
    header: Option<HeaderName>,
    /// In order of their names.
    pub sides: Vec<Side>,
    weighed: ArcSwap<Weighed>,
}

/// One of the services of a split.
pub struct Side {
    pub target: Target,
    /// Counters of all routes with this path, in earlier configurations too.
    pub counts: Arc<Counts>,
}

/// The weights in force.
#[derive(Clone)]
struct Weighed {
    weights: BTreeMap<String, u32>,
    shares: Shares,
}

impl Weighed {
    fn new(weights: BTreeMap<String, u32>) -> Result<Self, String> {
        let shares = Shares::new(weights.iter().map(|(name, weight)| (name.as_str(), *weight)))
            .map_err(|wrong| wrong.to_string())?;
        Ok(Self { weights, shares })
    }
}

impl Split {
    /// The split of a route; it keeps the weights of the split in `before` if the configuration is the same.
    ///
    /// # Errors
    /// `Error::Config` for an unknown service, an invalid header name, or invalid weights.
    pub fn new(
        route: &config::Route,
        config: &config::Split,
        target: impl Fn(&str) -> Result<Target, Error>,
        counts: &BTreeMap<(String, String), Arc<Counts>>,
        before: Option<&Snapshot>,
    ) -> Result<Self, Error> {
        let wrong = |what: String| Error::Config(format!("route {}: split: {what}", route.path));
        let sides = config.weights.keys().map(|service| {
            let counts = counts.get(&(route.path.clone(), service.clone())).cloned().unwrap_or_default();
            Ok(Side { target: target(service)?, counts })
        });
        let header = config
            .header
            .as_ref()
            .map(|name| name.parse().map_err(|_| wrong(format!("{name:?} is no name of a header"))));
        let known = before
            .iter()
            .flat_map(|before| before.routes.iter())
            .filter(|known| known.config.path == route.path)
            .filter_map(Route::split)
            .find(|known| known.config == *config);
        let weighed = match known {
            Some(known) => Weighed::clone(&known.weighed.load()),
            None => Weighed::new(config.weights.clone()).map_err(wrong)?,
        };
        Ok(Self {
            config: config.clone(),
            header: header.transpose()?,
            sides: sides.collect::<Result<_, Error>>()?,
            weighed: ArcSwap::from_pointee(weighed),
        })
    }

    /// Choose the service of a request: the one named in its header, if that is configured; otherwise by its
    /// key, or at random without one.
    pub fn choose(&self, route: &Route, parts: &Parts, seen: &mut Seen) -> &Target {
        let side = self.named(parts).unwrap_or_else(|| {
            let key = self.config.by.as_ref().map_or("", |by| by.of(route, parts, seen));
            let shares = &self.weighed.load().shares;
            if key.is_empty() { shares.at_random(fastrand::u64(..)) } else { shares.of_key(key) }
        });
        seen.side = Some(side);
        &self.sides[side].target
    }

    fn named(&self, parts: &Parts) -> Option<usize> {
        let name = parts.headers.get(self.header.as_ref()?)?;
        self.sides.iter().position(|side| name == side.target.service.as_str())
    }

    /// With some of the weights changed, or the configured ones restored.
    fn changed(&self, change: Option<&BTreeMap<String, u32>>) -> Result<Weighed, String> {
        let mut weights = match change {
            Some(_) => self.weighed.load().weights.clone(),
            None => self.config.weights.clone(),
        };
        weights.extend(change.into_iter().flatten().map(|(name, weight)| (name.clone(), *weight)));
        Weighed::new(weights)
    }
}

impl Route {
    fn split(&self) -> Option<&Split> {
        if let Leads::Split(split) = &self.leads { Some(split) } else { None }
    }

    /// The services that requests go to by default, which are those with a weight above 0.
    pub fn services(&self) -> Vec<&str> {
        match &self.leads {
            Leads::Nowhere => Vec::new(),
            Leads::To(target) => vec![&target.service],
            Leads::Split(split) => {
                let weights = &split.weighed.load().weights;
                let services = split.sides.iter().map(|side| side.target.service.as_str());
                services.filter(|service| weights.get(*service).is_some_and(|weight| *weight > 0)).collect()
            }
        }
    }
}

/// An operator's change of the splits of a path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    path: String,
    /// Weights of some or all services; an explicit null restores the configured ones.
    #[serde(deserialize_with = "Option::deserialize")]
    weights: Option<BTreeMap<String, u32>>,
}

/// Change the weights of all splits of a path that have the named services: of all or, after an error, of none.
///
/// # Errors
/// No such split, or invalid weights.
pub fn weigh(routes: &[Route], change: &Change) -> Result<(), String> {
    let Change { path, weights } = change;
    let has_all = |split: &&Split| {
        weights.iter().flatten().all(|(service, _)| split.config.weights.contains_key(service))
    };
    let of_path = routes.iter().filter(|route| route.config.path == *path).filter_map(Route::split);
    let mut splits = of_path.filter(has_all).peekable();
    if splits.peek().is_none() {
        let services: Vec<_> = weights.iter().flatten().map(|(service, _)| service.as_str()).collect();
        let between =
            if services.is_empty() { String::new() } else { format!(" for {}", services.join(", ")) };
        return Err(format!("no route {path} has a split{between}"));
    }
    let changed: Vec<_> = splits
        .map(|split| Ok((split, split.changed(weights.as_ref())?)))
        .collect::<Result<_, String>>()
        .map_err(|wrong| format!("route {path}: {wrong}"))?;
    for (split, weighed) in changed {
        split.weighed.store(Arc::new(weighed));
    }
    Ok(())
}

/// The counters of each side by path and service, taken over from `before`.
pub fn counts(config: &Config, before: Option<&Snapshot>) -> BTreeMap<(String, String), Arc<Counts>> {
    let sides = config.routes.iter().flat_map(|route| {
        let services = route.split.iter().flat_map(|split| split.weights.keys());
        services.map(|service| (route.path.clone(), service.clone()))
    });
    sides
        .map(|side| {
            let known = before.and_then(|before| before.split_counts.get(&side));
            let counts = known.cloned().unwrap_or_default();
            (side, counts)
        })
        .collect()
}

/// Each split with its weights and outcomes, for the admin port.
pub fn state(snapshot: &Snapshot) -> Vec<Value> {
    let splits = snapshot.routes.iter().filter_map(|route| Some((route, route.split()?)));
    let told = splits.map(|(route, split)| {
        let weighed = split.weighed.load();
        let services = split.sides.iter().map(|Side { target, counts }| {
            let durations: [u64; BUCKETS.len()] =
                std::array::from_fn(|bucket| counts.durations[bucket].load(Ordering::Relaxed));
            json!({
                "service": target.service,
                "weight": weighed.weights.get(&target.service),
                "configured": split.config.weights.get(&target.service),
                "answers": counts.answers.each_ref().map(|count| count.load(Ordering::Relaxed)),
                "latency_us": {"p50": quantile(&durations, 0.5), "p99": quantile(&durations, 0.99)},
            })
        });
        json!({
            "path": route.config.path,
            "methods": route.config.methods,
            "by": split.config.by.as_ref().map(LimitKey::to_string),
            "header": split.config.header,
            "services": services.collect::<Vec<_>>(),
        })
    });
    told.collect()
}

/// Metrics of splits by service; none if no route has one.
pub fn metrics(page: &mut Page, snapshot: &Snapshot) {
    if snapshot.split_counts.is_empty() {
        return;
    }
    page.head(
        "split_requests",
        "_total",
        "counter",
        "Answers of split routes by service and class of status.",
    );
    for ((path, service), counts) in &snapshot.split_counts {
        page.answers("split_requests", &[("route", path), ("service", service)], counts);
    }
    let name = "split_request_duration_seconds";
    page.head(name, "", "histogram", "From the head of a request to the head of its answer, by service.");
    for ((path, service), counts) in &snapshot.split_counts {
        page.durations(name, &[("route", path), ("service", service)], counts);
    }
    page.head("split_weight", "", "gauge", "In force; of the first route of a path that is split.");
    for (path, service) in snapshot.split_counts.keys() {
        let mut splits = snapshot.routes.iter().filter(|route| route.config.path == *path);
        let weight = splits.find_map(|route| route.split()?.weighed.load().weights.get(service).copied());
        page.sample("split_weight", "", &[("route", path), ("service", service)], weight.unwrap_or_default());
    }
}
