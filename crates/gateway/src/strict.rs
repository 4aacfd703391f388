//! Strict limits: the shared store is asked before each request.
//!
//! Requests of all workers stand in one queue, and whatever waits is asked in one script: while one is
//! under way the next fills, so a request waits for two at most. Nobody waits for a store that is
//! away: who stands in the queue then is sent back without a word.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::store::{BATCH, Question, Store, Trouble, Verdict};

/// Requests that wait for the store at once; each of them is open at its client as well. Those
/// beyond are decided as if the store were away.
const WAITING: usize = 4_096;

struct Ask {
    question: Question,
    answer: oneshot::Sender<Verdict>,
}

/// Where requests wait for the store.
pub struct Queue {
    asks: mpsc::Sender<Ask>,
    /// Until `keep` of `exchange` has it.
    waiting: Mutex<Option<Waiting>>,
}

/// The other end of the queue.
pub struct Waiting(mpsc::Receiver<Ask>);

impl Queue {
    pub fn new() -> Self {
        let (asks, waiting) = mpsc::channel(WAITING);
        Self { asks, waiting: Mutex::new(Some(Waiting(waiting))) }
    }

    /// Its end, for the one who asks the store.
    pub fn end(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What the store says, if it does.
    pub async fn ask(&self, question: Question) -> Option<Verdict> {
        let (answer, verdict) = oneshot::channel();
        self.asks.try_send(Ask { question, answer }).ok()?;
        verdict.await.ok()
    }
}

impl Waiting {
    /// Ask the store about whoever waits, until it can't be asked.
    pub async fn ask(&mut self, mut store: Store<'_>) -> Trouble {
        let mut batch = Vec::new();
        loop {
            self.0.recv_many(&mut batch, BATCH).await;
            // Whose client has gone is not to be counted.
            batch.retain(|ask| !ask.answer.is_closed());
            if batch.is_empty() {
                continue;
            }
            match store.admit(batch.iter().map(|ask| &ask.question)).await {
                Ok(verdicts) => {
                    for (ask, verdict) in batch.drain(..).zip(verdicts) {
                        // Who has gone meanwhile was counted: a limit errs towards less.
                        let _ = ask.answer.send(verdict);
                    }
                }
                Err(trouble) => return trouble,
            }
        }
    }

    /// Send back whoever comes, without end.
    pub async fn turn_away<T>(&mut self) -> T {
        while self.0.recv().await.is_some() {}
        std::future::pending().await
    }
}
