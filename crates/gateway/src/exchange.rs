//! Exchange with the shared store: one task, on a thread of its own, reports what this gateway admitted.
//! Requests never wait for it, except those of strict limits (`strict`).
//!
//! `shared_gcra` argues what a failed exchange costs. Here, a failed exchange returns its advances to the
//! cells, and the task reconnects after a pause with full jitter, so that a store that recovers isn't hit by
//! all gateways at once (Brooker, "Exponential backoff and jitter", 2015).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Error;
use crate::config::SharedLimits;
use crate::metrics::Kind;
use crate::shared::{Phase, Shared};
use crate::store::{BATCH, Entry, Place, Question, Store, Trouble, Verdict};
use crate::strict::Queue;

/// How often to ping the store when there is nothing to report.
const IDLE: Duration = Duration::from_secs(1);
/// Bounds of the backoff before a reconnect; `PAUSE` doubles with each consecutive failure.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_LIMIT: Duration = Duration::from_secs(2);

/// The connection to the store and its state.
pub struct Link {
    place: Place,
    every: Duration,
    strict: Queue,
    connected: AtomicBool,
    exchanges: AtomicU64,
    failures: AtomicU64,
    /// Duration of the slowest successful exchange: the D of the bound in `shared_gcra`.
    slowest_us: AtomicU64,
    last: Mutex<Option<Instant>>,
    trouble: Mutex<Option<Trouble>>,
}

impl Link {
    pub fn new(settings: &SharedLimits) -> Result<Self, Error> {
        if !(1..=10_000).contains(&settings.interval_ms) {
            return Err(Error::Config("shared limits: the interval is 1 to 10,000 ms".into()));
        }
        Ok(Self {
            place: Place::new(settings)?,
            every: Duration::from_millis(settings.interval_ms),
            strict: Queue::new(),
            connected: AtomicBool::new(false),
            exchanges: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            slowest_us: AtomicU64::new(0),
            last: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    /// Whether the last exchange succeeded.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// The store's verdict on a request of a strict limit; `None` if the store is unreachable.
    pub async fn ask(&self, question: Question) -> Option<Verdict> {
        if self.connected() { self.strict.ask(question).await } else { None }
    }

    /// For the admin port.
    pub fn state(&self, waiting: usize) -> Value {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "address": self.place.address,
            "connected": self.connected(),
            "last_exchange_seconds": last.map(|last| last.elapsed().as_secs_f64()),
            "slowest_exchange_seconds": self.slowest_us.load(Ordering::Relaxed) as f64 / 1e6,
            "exchanges": self.exchanges.load(Ordering::Relaxed),
            "failures": self.failures.load(Ordering::Relaxed),
            "waiting": waiting,
            "trouble": trouble.map(|trouble| json!({"error": trouble.error, "hint": trouble.hint})),
        })
    }

    /// Name, kind, help text and value of each metric.
    pub fn metrics(&self, waiting: usize) -> [(&'static str, Kind, &'static str, u64); 4] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (
                "shared_limits_connected",
                Kind::Gauge,
                "Whether the last exchange succeeded.",
                self.connected().into(),
            ),
            ("shared_limits_exchanges", Kind::Counter, "Exchanges that succeeded.", load(&self.exchanges)),
            (
                "shared_limits_exchange_failures",
                Kind::Counter,
                "Exchanges that failed.",
                load(&self.failures),
            ),
            ("shared_limits_waiting_keys", Kind::Gauge, "Keys that wait to be told.", waiting as u64),
        ]
    }

    fn succeeded(&self, began: Instant) {
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.slowest_us.fetch_max(took_us, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
    }

    fn failed(&self, trouble: Trouble) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.connected.store(false, Ordering::Relaxed);
        self.say("shared_limits_lost", Some(trouble));
    }

    /// Store the current trouble, and log it if it has changed.
    fn say(&self, event: &str, trouble: Option<Trouble>) {
        let mut said = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == trouble {
            return;
        }
        let mut line = json!({"level": "info", "event": event, "address": self.place.address});
        if let Some(Trouble { error, hint }) = &trouble {
            line["level"] = "warning".into();
            line["error"] = error.as_str().into();
            line["hint"] = (*hint).into();
        }
        eprintln!("{line}");
        *said = trouble;
    }
}

/// Exchange until the gateway ends. What was admitted since the last exchange is then lost with the cells.
pub async fn keep(shared: &Shared, link: &Link) {
    let Some(mut waiting) = link.strict.end() else { return };
    let mut phase = shared.phase();
    let exchanging = async {
        let mut failed = 0;
        let mut rest = Duration::ZERO;
        loop {
            let connecting = async {
                tokio::time::sleep(rest).await;
                link.place.connect().await
            };
            let connected = tokio::select! {
                connected = connecting => connected,
                never = waiting.turn_away() => never,
            };
            let trouble = match connected {
                Ok((store, warning)) => {
                    let event = if warning.is_some() {
                        "shared_limits_may_forget"
                    } else {
                        "shared_limits_connected"
                    };
                    let asking = waiting.ask(store.clone());
                    let telling = until_lost(shared, link, store, |began| {
                        failed = 0;
                        link.succeeded(began);
                        link.say(event, warning.clone());
                    });
                    tokio::select! {
                        trouble = telling => trouble,
                        trouble = asking => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            link.failed(trouble);
            rest = pause(failed);
            failed += 1;
        }
    };
    tokio::select! {
        () = exchanging => {}
        // The sender of phases lives as long as `shared`.
        _ = phase.wait_for(|phase| *phase == Phase::Ended) => {}
    }
}

/// Full jitter: uniform between zero and the bound.
fn pause(failed: u32) -> Duration {
    let bound = PAUSE.saturating_mul(1 << failed.min(10)).min(PAUSE_LIMIT);
    bound.mul_f64(RandomState::new().hash_one(failed) as f64 / u64::MAX as f64)
}

async fn until_lost(
    shared: &Shared,
    link: &Link,
    mut store: Store<'_>,
    mut succeeded: impl FnMut(Instant),
) -> Trouble {
    let mut last = None::<Instant>;
    loop {
        let began = Instant::now();
        let answered = match exchange(shared, &mut store).await {
            Ok(0) if last.is_some_and(|last| last.elapsed() < IDLE) => Ok(false),
            Ok(0) => store.ping().await.map(|()| true),
            told => told.map(|_| true),
        };
        match answered {
            Ok(true) => {
                succeeded(began);
                last = Some(began);
            }
            Ok(false) => {}
            Err(trouble) => return trouble,
        }
        tokio::time::sleep_until((began + link.every).into()).await;
    }
}

/// Report everything admitted since the last exchange, and take over the debts that the store returns; the
/// number of keys reported.
async fn exchange(shared: &Shared, store: &mut Store<'_>) -> Result<usize, Trouble> {
    let snapshot = shared.snapshot();
    let limits = snapshot.limits.iter().filter_map(|limit| Some((&*limit.name, limit.shared()?)));
    let taken: Vec<_> = limits
        .flat_map(|(limit, cells)| {
            cells.take().into_iter().map(move |(key, advance)| Entry { limit, cells, key, advance })
        })
        .collect();
    let mut batches = taken.chunks(BATCH);
    while let Some(batch) = batches.next() {
        let sent_ns = shared.nanoseconds(Instant::now());
        match store.advance(batch, sent_ns).await {
            Ok(debts) => {
                for (Entry { cells, key, .. }, debt_ns) in batch.iter().zip(debts) {
                    cells.told(key, sent_ns, debt_ns);
                }
            }
            Err(trouble) => {
                for Entry { cells, key, advance, .. } in batch.iter().chain(batches.flatten()) {
                    cells.lost(key, *advance);
                }
                return Err(trouble);
            }
        }
    }
    Ok(taken.len())
}
