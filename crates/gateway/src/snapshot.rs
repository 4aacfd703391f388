//! An immutable snapshot of the configuration; a request uses one from beginning to end.
//!
//! A reload builds the next snapshot beside the current one and swaps a pointer. So a request never sees half
//! of a change and never waits for one, and an invalid configuration is refused while the current one stays
//! in force. State that both configurations share is one object: a limit's cells, a service's instances with
//! their breakers and requests in flight, a path's counters, an issuer's keys. A request keeps the old
//! snapshot's objects alive until its answer is sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use counterfoil_policy::shared_gcra::SharedGcra;

use crate::Error;
use crate::access_log::AccessLog;
use crate::addresses::Addresses;
use crate::cache::{Cache, Store};
use crate::compression::Compression;
use crate::config::{self, Config, LimitKey};
use crate::edge::Edge;
use crate::exchange::Link;
use crate::forwarded::Trust;
use crate::hook::Hook;
use crate::identity::{Bearer, Replays, Verifier};
use crate::limit::Limit;
use crate::mirror::{self, Mirror};
use crate::places::{Rank, TIERS};
use crate::rewrite::Rewrite;
use crate::route::{Counts, Leads, Route, Target};
use crate::routing::Routes;
use crate::service::Upstream;
use crate::split::{self, Split};
use crate::tenants::Tenants;
use crate::tracing::Tracing;

pub struct Snapshot {
    pub config: Config,
    /// 1 at the start, incremented by each reload.
    pub version: u64,
    pub routes: Routes,
    /// Outcomes of requests, by route path.
    pub counts: BTreeMap<String, Arc<Counts>>,
    /// Outcomes of requests that matched no route.
    pub unrouted: Arc<Counts>,
    /// Outcomes of split requests, by route path and service.
    pub split_counts: BTreeMap<(String, String), Arc<Counts>>,
    /// Outcomes of mirrored copies, by route path and service.
    pub mirror_counts: BTreeMap<(String, String), Arc<mirror::Counts>>,
    /// By name.
    pub limits: Vec<Arc<Limit>>,
    /// By name.
    pub hooks: BTreeMap<String, Arc<Hook>>,
    pub upstreams: HashMap<String, Arc<Upstream>>,
    pub verifier: Option<Verifier>,
    /// Signatures accepted so far, kept even across a configuration without signing keys.
    pub replays: Arc<Replays>,
    pub tracing: Option<Arc<Tracing>>,
    pub tenants: Option<Tenants>,
    pub trust: Option<Trust>,
    /// The response cache; `None` if no route has one.
    pub cache: Option<Arc<Store>>,
    /// Reopened with each snapshot, so that a reload releases a rotated file.
    pub access_log: Option<AccessLog>,
}

impl Snapshot {
    /// Validate all of `config`, and take over state from `before` where the settings are the same.
    ///
    /// # Errors
    /// `Error::Config` or `Error::Setting` for an invalid configuration, `Error::Io` for the access log.
    pub fn new(
        mut config: Config,
        link: Option<&Arc<Link>>,
        before: Option<&Self>,
        now_ns: u64,
    ) -> Result<Self, Error> {
        let claims = claims(&config);
        for issuer in &mut config.identity {
            issuer.claims.clone_from(&claims);
            issuer.tiers.clone_from(&config.tiers);
        }
        if !(1..=TIERS).contains(&config.tiers.len()) {
            return Err(Error::Config(format!("tiers are 1 to {TIERS}")));
        }
        let trust = Trust::new(&config)?;
        let limits = limits(&config, link, before)?;
        let hooks = hooks(&config, before)?;
        let upstreams: HashMap<_, _> = config
            .services
            .iter()
            .map(|(name, service)| {
                let known = before.and_then(|before| before.upstreams.get(name));
                Ok((name.clone(), Upstream::new(name, service, known, now_ns)?))
            })
            .collect::<Result<_, Error>>()?;
        let counts: BTreeMap<_, _> = config
            .routes
            .iter()
            .map(|route| {
                let known = before.and_then(|before| before.counts.get(&route.path));
                (route.path.clone(), known.cloned().unwrap_or_default())
            })
            .collect();
        let unrouted = before.map(|before| Arc::clone(&before.unrouted)).unwrap_or_default();
        let cache = store(&config, before);
        let split_counts = split::counts(&config, before);
        let mirror_counts = mirror::counts(&config, before);
        let parts = Parts {
            limits: &limits,
            hooks: &hooks,
            upstreams: &upstreams,
            counts: &counts,
            split_counts: &split_counts,
            mirror_counts: &mirror_counts,
            store: cache.as_ref(),
            before,
        };
        let routes = routes(&config, &parts)?;
        let known = before.and_then(|before| before.verifier.as_ref());
        let replays = before.map(|before| Arc::clone(&before.replays)).unwrap_or_default();
        let verifier = Verifier::new(&config, known, &replays)?;
        let asks = |route: &config::Route| route.identity && route.redirect.is_none();
        if verifier.is_none()
            && let Some(place) = config.routes.iter().position(asks)
        {
            let detail = "a route asks for an identity, but none is configured: set [gateway.identity]";
            let setting = format!("routes[{place}].identity");
            return Err(Error::Setting { setting, detail: detail.into() });
        }
        let telemetry = &config.telemetry;
        let known = before.and_then(|before| before.tracing.as_ref());
        let tracing = (!telemetry.otlp_url.is_empty()).then(|| Tracing::new(telemetry, known));
        let tenants = Tenants::new(&telemetry.tenants, before.and_then(|before| before.tenants.as_ref()));
        let access_log = config
            .access_log
            .as_ref()
            .map(|path| AccessLog::open(Path::new(path)).map_err(Error::io(format!("access log {path}"))))
            .transpose()?;
        let mut limits: Vec<_> = limits.into_values().collect();
        limits.sort_by(|left, right| left.name.cmp(&right.name));
        let version = before.map_or(1, |before| before.version + 1);
        Ok(Self {
            config,
            version,
            routes,
            counts,
            unrouted,
            split_counts,
            mirror_counts,
            limits,
            hooks,
            upstreams,
            verifier,
            replays,
            tracing,
            tenants,
            trust,
            cache,
            access_log,
        })
    }

    /// Wait until the snapshot can serve: until every issuer's keys are loaded.
    ///
    /// # Errors
    /// `Error::Config`: which issuer's keys are missing, and why.
    pub async fn ready(&self) -> Result<(), Error> {
        for issuer in self.verifier.iter().flat_map(|verifier| &verifier.issuers) {
            issuer.ready().await.map_err(Error::Config)?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Names of routed services that have no known instance, or an instance with a health check that hasn't
    /// run yet.
    pub fn unknown_services(&self) -> Vec<String> {
        let routed: BTreeSet<_> = self.routes.iter().flat_map(Route::services).collect();
        let unknown = |name: &&str| self.upstreams.get(*name).is_some_and(|upstream| !upstream.is_known());
        routed.into_iter().filter(unknown).map(str::to_owned).collect()
    }

    /// The rank of a request when a service is out of places. Without identity configured all requests have
    /// the same tier; otherwise a request without one, or with an unknown tier, has the lowest.
    pub fn rank(&self, bearer: Option<&Bearer>) -> Rank {
        let tiers = if self.verifier.is_some() { self.config.tiers.len() } else { 1 };
        let tier = bearer.and_then(|bearer| self.config.tiers.iter().position(|tier| *tier == bearer.tier));
        Rank { tier: tier.unwrap_or(tiers - 1), tiers }
    }

    /// Requests shed for lack of a place, by tier; a single `all` if there are no identities.
    pub fn shed(&self, upstream: &Upstream) -> Vec<(&str, u64)> {
        let counts = upstream.places.shed.iter().map(|count| count.load(Ordering::Relaxed));
        if self.verifier.is_none() {
            return vec![("all", counts.sum())];
        }
        self.config.tiers.iter().map(String::as_str).zip(counts).collect()
    }
}

/// Number of keys waiting to be reported to the shared store.
pub fn waiting(snapshot: &Snapshot) -> usize {
    snapshot.limits.iter().filter_map(|limit| limit.shared()).map(SharedGcra::waiting).sum()
}

/// The claims that limits and splits use as keys.
fn claims(config: &Config) -> Vec<String> {
    let claim = |key: &LimitKey| match key {
        LimitKey::Claim(name) => Some(name.clone()),
        _ => None,
    };
    let splits = config.routes.iter().filter_map(|route| route.split.as_ref()?.by.as_ref());
    let mut claims: Vec<_> =
        config.limits.values().map(|limit| &limit.key).chain(splits).filter_map(claim).collect();
    claims.sort();
    claims.dedup();
    claims
}

fn limits(
    config: &Config,
    link: Option<&Arc<Link>>,
    before: Option<&Snapshot>,
) -> Result<HashMap<String, Arc<Limit>>, Error> {
    let built = config.limits.iter().map(|(name, limit)| {
        let known = before.and_then(|before| before.limits.iter().find(|each| each.name == *name));
        if let (Some(known), Some(before)) = (known, before)
            && before.config.limits.get(name) == Some(limit)
        {
            return Ok((name.clone(), Arc::clone(known)));
        }
        let changed = Limit::new(name, limit, link)?;
        if let Some(known) = known {
            // Counters never decrease, even if the cells are new.
            changed.allowed.store(known.allowed.load(Ordering::Relaxed), Ordering::Relaxed);
            changed.refused.store(known.refused.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Ok((name.clone(), Arc::new(changed)))
    });
    built.collect()
}

fn hooks(config: &Config, before: Option<&Snapshot>) -> Result<BTreeMap<String, Arc<Hook>>, Error> {
    let built = config.hooks.iter().map(|(name, hook)| {
        let known = before.and_then(|before| before.hooks.get(name));
        let hook = match known.filter(|known| known.config == *hook) {
            Some(same) => Arc::clone(same),
            None => Arc::new(Hook::new(name, hook)?),
        };
        Ok((name.clone(), hook))
    });
    built.collect()
}

/// The response cache: the previous one, unless its size has changed.
fn store(config: &Config, before: Option<&Snapshot>) -> Option<Arc<Store>> {
    config.routes.iter().find(|route| route.cache.is_some())?;
    let known = before.and_then(|before| before.cache.as_ref());
    let same = known.filter(|store| store.capacity_bytes == config.cache_bytes);
    Some(same.cloned().unwrap_or_else(|| Arc::new(Store::new(config.cache_bytes))))
}

/// The cache key's part that doesn't come from clients: the service and the rewrite. Another rewrite, of
/// another route or after a reload, has its own entries.
fn asked_of(route: &config::Route, service: &str) -> String {
    let mut asked = service.to_owned();
    if let Some(rewrite) = &route.rewrite {
        asked.push_str(&format!("\n{rewrite:?}"));
    }
    if let Some(edits) = &route.request_headers {
        asked.push_str(&format!("\n{edits:?}"));
    }
    asked
}

/// What routes are built from.
struct Parts<'a> {
    limits: &'a HashMap<String, Arc<Limit>>,
    hooks: &'a BTreeMap<String, Arc<Hook>>,
    upstreams: &'a HashMap<String, Arc<Upstream>>,
    counts: &'a BTreeMap<String, Arc<Counts>>,
    split_counts: &'a BTreeMap<(String, String), Arc<Counts>>,
    mirror_counts: &'a BTreeMap<(String, String), Arc<mirror::Counts>>,
    store: Option<&'a Arc<Store>>,
    before: Option<&'a Snapshot>,
}

impl Parts<'_> {
    /// The target of `route` at a service; `None` if there is no such service.
    fn target(&self, route: &config::Route, service: &str) -> Option<Target> {
        let upstream = Arc::clone(self.upstreams.get(service)?);
        // HTTP/2 connections are multiplexed and can't be upgraded.
        let is_http2 = upstream.config.protocol.is_http2();
        let upgrades = if is_http2 { Vec::new() } else { route.upgrades.clone() };
        let cache = self
            .store
            .zip(route.cache.as_ref())
            .map(|(store, cache)| Arc::new(Cache::new(cache, &asked_of(route, service), store)));
        Some(Target { service: service.to_owned(), upstream, cache, upgrades })
    }
}

fn routes(config: &Config, parts: &Parts<'_>) -> Result<Routes, Error> {
    let Parts { limits, hooks, counts, .. } = parts;
    let built = config.routes.iter().map(|route| {
        let unknown =
            |what: &str, name: &str| Error::Config(format!("route {}: unknown {what} {name}", route.path));
        let found = |name: &String| limits.get(name).cloned().ok_or_else(|| unknown("limit", name));
        let target = |service: &str| parts.target(route, service).ok_or_else(|| unknown("service", service));
        let leads = match &route.split {
            Some(split) => {
                Leads::Split(Box::new(Split::new(route, split, target, parts.split_counts, parts.before)?))
            }
            None if route.redirect.is_some() => Leads::Nowhere,
            None => Leads::To(target(&route.service)?),
        };
        let mirror = route
            .mirror
            .as_ref()
            .map(|mirror| Mirror::new(route, mirror, parts.upstreams, parts.mirror_counts));
        let mirror = mirror.transpose()?;
        let limits: Vec<_> = route.limits.iter().map(found).collect::<Result<_, _>>()?;
        let found = |name: &String| hooks.get(name).cloned().ok_or_else(|| unknown("hook", name));
        Ok(Route {
            hooks: route.hooks.iter().map(found).collect::<Result<_, _>>()?,
            asks: limits.iter().any(|limit| limit.is_strict()),
            tells: limits.iter().any(|limit| limit.tell),
            limits,
            leads,
            mirror,
            rewrite: Rewrite::new(route)?.map(Arc::new),
            edge: Edge::new(route)?,
            compression: (route.compression.as_ref().map(Compression::new).transpose())
                .map_err(|error| Error::Config(format!("route {}: {error}", route.path)))?,
            counts: counts.get(&route.path).cloned().unwrap_or_default(),
            addresses: Addresses::new(route)?,
            config: route.clone(),
        })
    });
    Routes::new(built.collect::<Result<_, _>>()?)
}
