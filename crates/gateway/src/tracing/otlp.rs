//! Exports spans to a collector: OTLP/HTTP in JSON (OpenTelemetry Protocol 1.x, `/v1/traces`).

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::Telemetry;
use crate::own_request;
use crate::shared::{Phase, Shared};
use crate::tracing::context::text;
use crate::tracing::{Counts, Span, Waiting};

/// The maximum number of spans in a document, which is then some 300 KB.
const BATCH: usize = 512;
/// How long a span waits for others to fill a batch.
const GATHER: Duration = Duration::from_secs(1);
/// Backoff after a failure: doubles with each consecutive one.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// The maximum size of a collector's response.
const ANSWER_LIMIT: usize = 64 * 1024;
/// How long a shutdown waits for the remaining spans.
const LAST: Duration = Duration::from_secs(2);
/// Methods that appear in traces even without a matching route (semantic conventions of HTTP), and the name
/// of all others.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
const OTHER: &str = "_OTHER";
/// `SPAN_KIND_SERVER`, `STATUS_CODE_UNSET` and `STATUS_CODE_ERROR`.
const SERVER: u8 = 2;
const UNSET: u8 = 0;
const ERROR: u8 = 2;

/// Export the spans of every configuration until the gateway ends, then the remaining ones within a
/// short timeout.
pub async fn keep_exporting(shared: &Shared) {
    let (mut version, mut phase) = (shared.version(), shared.phase());
    let mut exporters = JoinSet::new();
    loop {
        version.mark_unchanged();
        if let Some(tracing) = &shared.snapshot().tracing
            && let Some(waiting) = tracing.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // The exporter must not keep the senders alive: it ends when its queues are closed.
            let exporter = Exporter { config: tracing.config.clone(), counts: Arc::clone(&tracing.counts) };
            exporters.spawn(exporter.run(waiting, shared.phase()));
        }
        while exporters.try_join_next().is_some() {}
        tokio::select! {
            _ = version.changed() => {}
            _ = phase.wait_for(|phase| *phase == Phase::Ended) => break,
        }
    }
    let _ = timeout(LAST, async { while exporters.join_next().await.is_some() {} }).await;
}

struct Exporter {
    config: Telemetry,
    counts: Arc<Counts>,
}

impl Exporter {
    /// Export until all senders are gone or the gateway has ended.
    async fn run(self, mut waiting: Waiting, mut phase: watch::Receiver<Phase>) {
        let mut batch = Vec::new();
        let ended = async {
            // The sender of phases lives as long as the gateway.
            let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
        };
        let exporting = async {
            loop {
                waiting.gather(&mut batch).await;
                if batch.is_empty() {
                    return;
                }
                self.until_settled(&batch).await;
                batch.clear();
            }
        };
        tokio::select! {
            () = exporting => return,
            () = ended => {}
        }
        loop {
            waiting.fill(&mut batch);
            if batch.is_empty() || self.post(&batch).await.is_err() {
                self.counts.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                return;
            }
            batch.clear();
        }
    }

    /// Retry while the collector is unavailable; meanwhile spans queue up, and are dropped when the queue is
    /// full. A batch that the collector rejects is dropped at once, since it would block all others.
    async fn until_settled(&self, batch: &[Span]) {
        let mut failed = 0;
        while let Err(error) = self.post(batch).await {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            self.say(Some(error.to_string()));
            if is_final(&error) {
                self.counts.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                return;
            }
            sleep(PAUSE.saturating_mul(1 << failed.min(10)).min(PAUSE_LIMIT)).await;
            failed += 1;
        }
        self.say(None);
    }

    async fn post(&self, batch: &[Span]) -> Result<(), own_request::Error> {
        let document = document(&self.config.service_name, batch).to_string();
        let request = Request::post(format!("{}/v1/traces", self.config.otlp_url.trim_end_matches('/')))
            .header("content-type", "application/json")
            .body(Full::from(document))?;
        let authorities = self.config.ca_file.as_deref().map(Path::new);
        own_request::send(request, authorities, ANSWER_LIMIT).await?;
        self.counts.exported.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Record the outcome of the last export, and log it if it has changed.
    fn say(&self, trouble: Option<String>) {
        let mut said = self.counts.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == trouble {
            return;
        }
        let address = &self.config.otlp_url;
        let line = match &trouble {
            Some(error) => json!({"level": "warning", "event": "traces_lost", "address": address,
                "error": error, "hint": "see whether a collector takes OTLP over HTTP there; requests go on"}),
            None => json!({"level": "info", "event": "traces_exported", "address": address}),
        };
        eprintln!("{line}");
        *said = trouble;
    }
}

/// Whether a retry is pointless (OTLP/HTTP, "Retryable Response Codes").
fn is_final(error: &own_request::Error) -> bool {
    let refused = error.downcast_ref::<own_request::Refused>();
    refused.is_some_and(|refused| !matches!(refused.0.as_u16(), 429 | 502 | 503 | 504))
}

impl Waiting {
    /// Wait for spans and put them into `batch`; leaves it empty if the queues are closed.
    async fn gather(&mut self, batch: &mut Vec<Span>) {
        let first = tokio::select! {
            biased;
            span = self.kept.recv() => span,
            span = self.sampled.recv() => span,
        };
        batch.extend(first);
        if !batch.is_empty() && batch.len() + self.kept.len() + self.sampled.len() < BATCH {
            sleep(GATHER).await;
        }
        self.fill(batch);
    }

    /// Put the queued spans into `batch`, failed and slow requests first.
    fn fill(&mut self, batch: &mut Vec<Span>) {
        while batch.len() < BATCH {
            match self.kept.try_recv().or_else(|_| self.sampled.try_recv()) {
                Ok(span) => batch.push(span),
                Err(_) => return,
            }
        }
    }
}

/// The export request in Protobuf's JSON mapping: ids in hex, 64-bit numbers as text.
fn document(service_name: &str, batch: &[Span]) -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [attribute("service.name", service_name.into())]},
        "scopeSpans": [{
            "scope": {"name": "counterfoil.gateway"},
            "spans": batch.iter().map(span).collect::<Vec<_>>(),
        }],
    }]})
}

fn span(span: &Span) -> Value {
    let Span { context, start_us, duration_us, method, route, path, status, .. } = span;
    let nanoseconds = |us: u64| us.saturating_mul(1_000).to_string();
    // A made-up method must not become a span name or a value that collectors count by.
    let is_known = !route.is_empty() || METHODS.contains(&method.as_str());
    let texts = [
        ("http.request.method", if is_known { method } else { OTHER }),
        ("http.request.method_original", if is_known { "" } else { method }),
        ("http.route", route),
        ("url.scheme", span.scheme),
        ("url.path", path),
        ("counterfoil.tenant", &span.tenant),
        ("counterfoil.service", &span.service),
        ("counterfoil.instance", &span.instance),
        ("counterfoil.request_id", &span.request_id),
    ];
    let mut attributes: Vec<Value> = texts
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(key, text)| attribute(key, text.into()))
        .collect();
    attributes.push(json!({"key": "http.response.status_code", "value": {"intValue": status.to_string()}}));
    attributes.push(json!({"key": "counterfoil.attempts", "value": {"intValue": span.attempts.to_string()}}));
    let failed = *status >= 500;
    if failed {
        attributes.push(attribute("error.type", status.to_string()));
    }
    let name = match (is_known, route.is_empty()) {
        (false, _) => "HTTP".to_owned(),
        (true, true) => method.clone(),
        (true, false) => format!("{method} {route}"),
    };
    json!({
        "traceId": text(&context.trace_id),
        "spanId": text(&context.span_id),
        "parentSpanId": context.parent_id.map(|id| text(&id)).unwrap_or_default(),
        "flags": u8::from(context.sampled),
        "name": name,
        "kind": SERVER,
        "startTimeUnixNano": nanoseconds(*start_us),
        "endTimeUnixNano": nanoseconds(start_us + duration_us),
        "attributes": attributes,
        "status": {"code": if failed { ERROR } else { UNSET }},
    })
}

fn attribute(key: &str, text: String) -> Value {
    json!({"key": key, "value": {"stringValue": text}})
}
