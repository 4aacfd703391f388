//! Tracing: which requests are exported, and which are dropped first under load.
//!
//! A request is one span. At its end it is known whether it failed or was slow: such a span is
//! always kept, whatever the head said; of the others a share is (`context`). Two queues, each with
//! a bound, lead to the exporter, so that the many never push out the few that matter. A span that
//! finds its queue full is dropped, and counted.
//!
//! Spans go out by OTLP over HTTP in JSON (`otlp`): one document for a batch, over connections that
//! the gateway makes anyway. The SDK of OpenTelemetry would bring its own threads, queues and
//! clients to the same end, and a sampler that decides before it knows how a request ends.

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

/// Spans of requests that failed or were slow, at some 500 bytes each, that may wait to be exported.
const KEPT: usize = 8_192;
/// The same for those that are a sample.
const SAMPLED: usize = 4_096;

/// A request under way in its trace.
#[derive(Clone)]
pub struct Trace {
    pub context: Context,
    /// For the instance.
    pub header: HeaderValue,
    /// Of the trace, for logs.
    pub id: String,
}

/// One request, as its trace tells of it.
pub struct Span {
    pub context: Context,
    pub start_us: u64,
    pub duration_us: u64,
    pub method: String,
    /// What clients speak with the gateway: `http` or `https`.
    pub scheme: &'static str,
    /// The route's, empty if there was none: the span's name.
    pub route: String,
    pub path: String,
    pub status: u16,
    pub tenant: String,
    pub service: String,
    pub instance: String,
    pub attempts: u32,
    pub request_id: String,
}

/// Where spans go, in one configuration.
pub struct Tracing {
    pub config: Telemetry,
    threshold: u64,
    slow_us: u64,
    kept: mpsc::Sender<Span>,
    sampled: mpsc::Sender<Span>,
    waiting: Mutex<Option<Waiting>>,
    counts: Arc<Counts>,
}

/// The other ends of the queues, until an exporter takes them.
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
    /// One with these settings, or `before` if it has them; its counts go on.
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

    /// The place in its trace of a request with these headers. What they say to each maker of tracing tools
    /// belongs to the trace that they name: where a new one begins, it is taken out of them (W3C Trace
    /// Context, section 4.3).
    pub fn begin(&self, headers: &mut HeaderMap) -> Trace {
        let context = Context::of(headers, self.threshold);
        if context.parent_id.is_none() {
            headers.remove(TRACESTATE);
        }
        Trace { header: context.header(), id: context.trace_id(), context }
    }

    /// Keep what is told of a request, if it is to be told; nobody waits for it.
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

    /// For operators.
    pub fn state(&self) -> Value {
        let trouble = self.counts.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (exported, dropped, failures) = self.counts();
        json!({
            "address": self.config.otlp_url, "exported": exported, "dropped": dropped,
            "failures": failures, "waiting": self.waiting_spans(), "trouble": *trouble,
        })
    }

    /// Spans exported, spans dropped, and exports that failed.
    pub fn counts(&self) -> (u64, u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.counts.exported), load(&self.counts.dropped), load(&self.counts.failures))
    }

    /// Spans that are still to be exported.
    pub fn waiting_spans(&self) -> usize {
        let used = |queue: &mpsc::Sender<Span>| queue.max_capacity() - queue.capacity();
        used(&self.kept) + used(&self.sampled)
    }
}
