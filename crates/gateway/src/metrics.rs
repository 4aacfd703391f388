//! Metrics, as Prometheus and OpenMetrics text.
//!
//! Label values come from the configuration (route paths, limits, services, listed tenants) and a few fixed
//! words, so the number of series is fixed before the first request, whatever clients send. All other tenants
//! are `other`; traces and the access log identify them.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::header::{self, HeaderMap};

use crate::cache;
use crate::headers::text;
use crate::health;
use crate::mirror;
use crate::route::{BUCKETS, Counts};
use crate::service::Upstream;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, waiting};
use crate::split;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics in the format that the scraper accepts, with its content type.
pub fn answer(shared: &Shared, headers: &HeaderMap) -> (&'static str, String) {
    let open = text(headers, header::ACCEPT).contains("application/openmetrics-text");
    let mut page = Page { open, text: String::new() };
    let snapshot = shared.snapshot();
    requests(&mut page, shared, &snapshot);
    policies(&mut page, &snapshot);
    protection(&mut page, &snapshot);
    instance_tls(&mut page, &snapshot);
    health::metrics(&mut page, &snapshot);
    own(&mut page, shared, &snapshot);
    cache::metrics(&mut page, &snapshot);
    split::metrics(&mut page, &snapshot);
    mirror::metrics(&mut page, &snapshot);
    if let Some(certificates) = shared.certificates() {
        certificates.metrics(&mut page);
    }
    if let Some(link) = &shared.link {
        for (name, kind, help, value) in link.metrics(waiting(&snapshot)) {
            page.family(name, kind, help, [(&[][..], value)]);
        }
    }
    if open {
        page.text.push_str("# EOF\n");
    }
    (if open { OPEN_METRICS } else { PROMETHEUS }, page.text)
}

/// The type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A metrics page being written.
pub struct Page {
    open: bool,
    text: String,
}

/// Label names and values.
type Labels<'a> = &'a [(&'static str, &'a str)];

impl Page {
    /// Write one family with its samples. A counter's samples have the suffix `_total`.
    pub fn family<'a, V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, V)>,
    ) {
        let total = if kind == Kind::Counter { "_total" } else { "" };
        let word = if kind == Kind::Counter { "counter" } else { "gauge" };
        self.head(name, total, word, help);
        for (labels, value) in samples {
            self.sample(name, total, labels, value);
        }
    }

    /// Write HELP and TYPE. OpenMetrics names a counter without `_total`, Prometheus with it.
    pub fn head(&mut self, name: &str, total: &str, kind: &str, help: &str) {
        let total = if self.open { "" } else { total };
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "# HELP counterfoil_gateway_{name}{total} {help}");
        let _ = writeln!(self.text, "# TYPE counterfoil_gateway_{name}{total} {kind}");
    }

    /// Answers by status class, with these labels.
    pub fn answers(&mut self, name: &str, labels: Labels<'_>, counts: &Counts) {
        for (class, count) in CLASSES.iter().zip(&counts.answers) {
            self.sample(name, "_total", &[labels, &[("status", class)]].concat(), load(count));
        }
    }

    /// The samples of a histogram with these labels.
    pub fn durations(&mut self, name: &str, labels: Labels<'_>, counts: &Counts) {
        let mut total = 0;
        for (count, bound) in counts.durations.iter().zip(BUCKETS) {
            total += load(count);
            let bound = if bound == u64::MAX { "+Inf".to_owned() } else { (bound as f64 / 1e6).to_string() };
            self.sample(name, "_bucket", &[labels, &[("le", &*bound)]].concat(), total);
        }
        self.sample(name, "_sum", labels, load(&counts.duration_sum_us) as f64 / 1e6);
        self.sample(name, "_count", labels, total);
    }

    pub fn sample(&mut self, name: &str, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let _ = write!(self.text, "counterfoil_gateway_{name}{suffix}");
        for (number, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"", if number == 0 { '{' } else { ',' });
            for letter in value.chars() {
                match letter {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    letter => self.text.push(letter),
                }
            }
            self.text.push('"');
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// The route label of requests that matched no route; paths begin with a slash.
const NO_ROUTE: &str = "none";
pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn requests(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let routed = snapshot.counts.iter().map(|(path, counts)| (path.as_str(), &**counts));
    let counted = || routed.clone().chain([(NO_ROUTE, &*snapshot.unrouted)]);
    page.head("requests", "_total", "counter", "Answers by route and class of status.");
    for (path, counts) in counted() {
        page.answers("requests", &[("route", path)], counts);
    }
    let name = "request_duration_seconds";
    page.head(name, "", "histogram", "From the head of a request to the head of its answer.");
    for (path, counts) in counted() {
        page.durations(name, &[("route", path)], counts);
    }
    if let Some(tenants) = &snapshot.tenants {
        page.head("tenant_requests", "_total", "counter", "Answers by listed tenant and class of status.");
        for (tenant, answers) in tenants.answers() {
            for (class, count) in CLASSES.iter().zip(answers) {
                page.sample(
                    "tenant_requests",
                    "_total",
                    &[("tenant", tenant), ("status", class)],
                    load(count),
                );
            }
        }
    }
    page.family("connections", Kind::Gauge, "Clients that are connected.", [(&[][..], shared.connections())]);
    let turned_away = [(&[][..], load(&shared.turned_away))];
    page.family("turned_away", Kind::Counter, "Connections for which there was no place.", turned_away);
    let help = "Connections that no trusted proxy announced, where proxy_protocol is on.";
    page.family("unannounced", Kind::Counter, help, [(&[][..], shared.unannounced.count())]);
    let early = &shared.early_data;
    let outcomes = [("marked", &early.marked), ("waited", &early.waited), ("refused", &early.refused)];
    let help =
        "Requests that might be replays: passed on as such, held until their handshake ended, or refused.";
    page.head("early_requests", "_total", "counter", help);
    for (outcome, count) in outcomes {
        page.sample("early_requests", "_total", &[("outcome", outcome)], load(count));
    }
}

fn policies(page: &mut Page, snapshot: &Snapshot) {
    page.head("limit_decisions", "_total", "counter", "Requests that a limit let pass or refused.");
    for limit in &snapshot.limits {
        for (decision, count) in [("allowed", &limit.allowed), ("refused", &limit.refused)] {
            let labels = [("limit", limit.name.as_str()), ("decision", decision)];
            page.sample("limit_decisions", "_total", &labels, load(count));
        }
    }
    page.head("limit_keys", "", "gauge", "Keys that a limit remembers.");
    for limit in &snapshot.limits {
        page.sample("limit_keys", "", &[("limit", &limit.name)], limit.keys());
    }
    let mut services: Vec<_> = snapshot.upstreams.iter().collect();
    services.sort_by_key(|(name, _)| *name);
    page.head("in_flight", "", "gauge", "Requests under way to a service.");
    for (name, upstream) in &services {
        page.sample("in_flight", "", &[("service", name)], upstream.places.in_flight());
    }
    page.head("instances", "", "gauge", "Instances of a service by the state of their breakers.");
    for (name, upstream) in &services {
        let endpoints = upstream.endpoints.load();
        for state in ["closed", "half-open", "open"] {
            let count = endpoints.iter().filter(|each| each.breaker.view().name() == state).count();
            page.sample("instances", "", &[("service", name), ("breaker", state)], count);
        }
    }
}

/// Retries, hedges, load shedding and hooks.
fn protection(page: &mut Page, snapshot: &Snapshot) {
    let services: BTreeMap<_, _> = snapshot.upstreams.iter().collect();
    let mut counters = |name: &str, help: &str, count: fn(&Upstream) -> &AtomicU64| {
        page.head(name, "_total", "counter", help);
        for (service, upstream) in &services {
            page.sample(name, "_total", &[("service", service)], load(count(upstream)));
        }
    };
    counters("retries", "Times that an instance was asked because one before it had failed.", |each| {
        &each.repeated
    });
    counters("retries_refused", "Retries that the retry budget did not pay for.", |each| &each.unpaid);
    counters("hedges", "Times that a second instance was asked since the first took long.", |each| {
        &each.hedges
    });
    let mut gauges = |name: &str, help: &str, value: fn(&Upstream) -> usize| {
        page.head(name, "", "gauge", help);
        for (service, upstream) in &services {
            page.sample(name, "", &[("service", service)], value(upstream));
        }
    };
    gauges("in_flight_limit", "Requests that a service may have at once.", |each| each.places.limit());
    gauges("waiting", "Requests that wait for a place at a service.", |each| each.places.waiting());
    gauges("tunnels", "Connections to a service that left HTTP behind.", |each| {
        each.tunnels.load(Ordering::Relaxed)
    });
    page.head("shed_requests", "_total", "counter", "Requests that found no place at a service, by tier.");
    for (service, upstream) in &services {
        for (tier, count) in snapshot.shed(upstream) {
            page.sample("shed_requests", "_total", &[("service", service), ("tier", tier)], count);
        }
    }
    page.head("hook_answers", "_total", "counter", "Requests that a hook had to be asked about, by outcome.");
    for (name, hook) in &snapshot.hooks {
        for (outcome, count) in hook.outcomes() {
            page.sample("hook_answers", "_total", &[("hook", name), ("outcome", outcome)], count);
        }
    }
}

/// Outcomes of TLS handshakes with instances.
fn instance_tls(page: &mut Page, snapshot: &Snapshot) {
    let secured = |(name, upstream): (&String, &Arc<Upstream>)| {
        upstream.tls.as_ref().map(|tls| (name.clone(), Arc::clone(&tls.record)))
    };
    let mut services: Vec<_> = snapshot.upstreams.iter().filter_map(secured).collect();
    services.sort_by(|(left, _), (right, _)| left.cmp(right));
    page.head("instance_tls", "_total", "counter", "TLS handshakes with instances by what became of them.");
    for (name, record) in &services {
        let counts = [("full", &record.full), ("resumed", &record.resumed), ("failed", &record.failed)];
        for (outcome, count) in counts {
            page.sample("instance_tls", "_total", &[("service", name), ("outcome", outcome)], load(count));
        }
    }
}

/// The gateway's own state.
fn own(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let (refusals, loaded_us) = shared.configuration_counts();
    let one = |value: u64| [(&[][..], value)];
    page.family(
        "configuration_version",
        Kind::Gauge,
        "Of the one in force; 1 at the start.",
        one(snapshot.version),
    );
    let loaded = [(&[][..], loaded_us as f64 / 1e6)];
    page.family("configuration_loaded_seconds", Kind::Gauge, "When it came into force, since 1970.", loaded);
    page.family(
        "configuration_refusals",
        Kind::Counter,
        "Configurations that could not be used.",
        one(refusals),
    );
    if let Some(verifier) = &snapshot.verifier {
        let failures = verifier.issuers.iter().map(|issuer| issuer.failures()).sum();
        page.family("issuer_failures", Kind::Counter, "Fetches of issuers' keys that failed.", one(failures));
    }
    if let Some(tracing) = &snapshot.tracing {
        let (exported, dropped, failures) = tracing.counts();
        page.family("spans_exported", Kind::Counter, "Spans that the collector took.", one(exported));
        page.family("spans_dropped", Kind::Counter, "Spans for which there was no room.", one(dropped));
        page.family(
            "span_export_failures",
            Kind::Counter,
            "Exports that the collector did not take.",
            one(failures),
        );
        let waiting = one(tracing.waiting_spans() as u64);
        page.family("spans_waiting", Kind::Gauge, "Spans that are still to be exported.", waiting);
    }
}
