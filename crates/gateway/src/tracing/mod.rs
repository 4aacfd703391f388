//! Tracing: which requests are exported, and which are dropped first under load.
//!
//! Each request is one span. Spans of failed and slow requests are always kept, which is decided at their
//! end; of the others a sample is kept (`context`). Two bounded queues lead to the exporter, so that samples
//! never displace failed and slow requests. A span whose queue is full is dropped and counted.
//!
//! Spans are exported as OTLP over HTTP in JSON (`otlp`), one document per batch, with the gateway's own HTTP
//! client. The OpenTelemetry SDK would add its own threads, queues and clients, and a sampler that decides
//! before it is known how a request ends.

mod context;
mod otlp;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::Telemetry;
use crate::tracing::context::{Context, TRACESTATE};
pub use crate::tracing::otlp::keep_exporting;

/// The capacity of the queue for failed and slow requests, at some 500 bytes per span.
const KEPT: usize = 8_192;
/// The capacity of the queue for sampled requests.
const SAMPLED: usize = 4_096;

/// The trace of a request under way.
#[derive(Clone)]
pub struct Trace {
    pub context: Context,
    /// The `traceparent` for the instance.
    pub header: HeaderValue,
    /// The trace id, for logs.
    pub id: String,
}

/// The span of one request.
pub struct Span {
    pub context: Context,
    pub start_us: u64,
    pub duration_us: u64,
    pub method: String,
    /// The scheme of the client's connection: `http` or `https`.
    pub scheme: &'static str,
    /// The route's path, empty if no route matched: part of the span's name.
    pub route: String,
    pub path: String,
    pub status: u16,
    pub tenant: String,
    pub service: String,
    pub instance: String,
    pub attempts: u32,
    pub request_id: String,
}

/// The queues and counters of one configuration.
pub struct Tracing {
    pub config: Telemetry,
    threshold: u64,
    slow_us: u64,
    kept: mpsc::Sender<Span>,
    sampled: mpsc::Sender<Span>,
    waiting: Mutex<Option<Waiting>>,
    counts: Arc<Counts>,
}

/// The receiving ends of the queues, until an exporter takes them.
struct Waiting {
    kept: mpsc::Receiver<Span>,
    sampled: mpsc::Receiver<Span>,
}

#[derive(Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Tracing {
    /// Create one with these settings, or return `before` if they are the same. Counters carry over.
    pub fn new(config: &Telemetry, before: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(same) = before.filter(|before| before.config == *config) {
            return Arc::clone(same);
        }
        let (kept, kept_end) = mpsc::channel(KEPT);
        let (sampled, sampled_end) = mpsc::channel(SAMPLED);
        Arc::new(Self {
            config: config.clone(),
            threshold: (config.sample_ratio.clamp(0.0, 1.0) * (1u64 << 56) as f64) as u64,
            slow_us: config.slow_ms.saturating_mul(1_000),
            kept,
            sampled,
            waiting: Mutex::new(Some(Waiting { kept: kept_end, sampled: sampled_end })),
            counts: before.map(|before| Arc::clone(&before.counts)).unwrap_or_default(),
        })
    }

    /// Start the span of a request with these headers. `tracestate` belongs to the trace that `traceparent`
    /// names; if a new trace begins, it is removed (W3C Trace Context, section 4.3).
    pub fn begin(&self, headers: &mut HeaderMap) -> Trace {
        let context = Context::of(headers, self.threshold);
        if context.parent_id.is_none() {
            headers.remove(TRACESTATE);
        }
        Trace { header: context.header(), id: context.trace_id(), context }
    }

    /// Queue the span of a finished request if it is to be exported. Never blocks.
    pub fn end(&self, context: Context, status: u16, duration_us: u64, tell: impl FnOnce(Context) -> Span) {
        let queue = if status >= 500 || duration_us >= self.slow_us {
            &self.kept
        } else if context.sampled {
            &self.sampled
        } else {
            return;
        };
        match queue.try_reserve() {
            Ok(place) => place.send(tell(context)),
            Err(_) => _ = self.counts.dropped.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The state, for operators.
    pub fn state(&self) -> Value {
        let trouble = self.counts.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (exported, dropped, failures) = self.counts();
        json!({
            "address": self.config.otlp_url, "exported": exported, "dropped": dropped,
            "failures": failures, "waiting": self.waiting_spans(), "trouble": *trouble,
        })
    }

    /// Spans exported, spans dropped, and failed exports.
    pub fn counts(&self) -> (u64, u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.counts.exported), load(&self.counts.dropped), load(&self.counts.failures))
    }

    /// Spans waiting for export.
    pub fn waiting_spans(&self) -> usize {
        let used = |queue: &mpsc::Sender<Span>| queue.max_capacity() - queue.capacity();
        used(&self.kept) + used(&self.sampled)
    }
}
