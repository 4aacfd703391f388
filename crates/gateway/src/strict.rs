//! Strict limits: the shared store is asked before each request.
//!
//! Requests of all workers share one queue, and everything in it is sent in one script. While a script runs,
//! the next batch collects, so a request waits for two scripts at most. If the store is unreachable, queued
//! requests are released at once without a verdict.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::store::{BATCH, Question, Store, Trouble, Verdict};

/// Maximum number of queued requests; each is also open at its client. Further ones are decided as if the
/// store were unreachable.
const WAITING: usize = 4_096;

struct Ask {
    question: Question,
    answer: oneshot::Sender<Verdict>,
}

/// The queue of requests for the store.
pub struct Queue {
    asks: mpsc::Sender<Ask>,
    /// Taken by `exchange::keep`.
    waiting: Mutex<Option<Waiting>>,
}

/// The receiving end of the queue.
pub struct Waiting(mpsc::Receiver<Ask>);

impl Queue {
    pub fn new() -> Self {
        let (asks, waiting) = mpsc::channel(WAITING);
        Self { asks, waiting: Mutex::new(Some(Waiting(waiting))) }
    }

    /// Take the receiving end; `None` if it is taken already.
    pub fn end(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The store's verdict; `None` if the queue is full or the store unreachable.
    pub async fn ask(&self, question: Question) -> Option<Verdict> {
        let (answer, verdict) = oneshot::channel();
        self.asks.try_send(Ask { question, answer }).ok()?;
        verdict.await.ok()
    }
}

impl Waiting {
    /// Send queued requests to the store until it fails.
    pub async fn ask(&mut self, mut store: Store<'_>) -> Trouble {
        let mut batch = Vec::new();
        loop {
            self.0.recv_many(&mut batch, BATCH).await;
            // Don't count requests whose client has disconnected.
            batch.retain(|ask| !ask.answer.is_closed());
            if batch.is_empty() {
                continue;
            }
            match store.admit(batch.iter().map(|ask| &ask.question)).await {
                Ok(verdicts) => {
                    for (ask, verdict) in batch.drain(..).zip(verdicts) {
                        // If the client has disconnected meanwhile, the request still counts: a limit errs on
                        // the low side.
                        let _ = ask.answer.send(verdict);
                    }
                }
                Err(trouble) => return trouble,
            }
        }
    }

    /// Release all queued requests without a verdict, forever.
    pub async fn turn_away<T>(&mut self) -> T {
        while self.0.recv().await.is_some() {}
        std::future::pending().await
    }
}
