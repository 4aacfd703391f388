//! A client connection: its peer, its requests in flight, and its end.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use hyper::header::HeaderValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::door::Patience;
use crate::shared::Phase;

/// After once to twice this time without a request, a connection of HTTP/1.1 gives back its buffers:
/// long after the pauses of somebody who is at work on a page, long before its end.
const REST_AFTER: Duration = Duration::from_secs(5);

/// How long a connection that is new when the gateway begins to drain has for its first request: it came
/// through a door that was open, and its client would take a close for a failure.
const NEWCOMER: Duration = Duration::from_secs(1);

/// Its counts are written by one thread, and read by the same.
pub struct Client {
    /// Its address, without the port.
    pub address: HeaderValue,
    begun: AtomicU64,
    ended: AtomicU64,
    ending: AtomicU8,
    /// Whether it is time to give back what serving takes.
    resting: AtomicBool,
    /// Whether it has not taken all that was written to it.
    blocked: AtomicBool,
    /// Whether our side of it has ended.
    ended_by_us: AtomicBool,
    /// Whether it has left HTTP behind.
    tunnel: AtomicBool,
    /// What is to be written before hyper writes anything else.
    early: Mutex<Vec<u8>>,
    has_early: AtomicBool,
    waker: AtomicWaker,
}

/// How a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// After what is under way, and in the way that the protocol has for it.
    Politely = 1,
    /// Now.
    Cut = 2,
}

impl Client {
    pub fn new(address: HeaderValue) -> Self {
        Self {
            address,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            ending: AtomicU8::new(0),
            resting: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            ended_by_us: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            early: Mutex::default(),
            has_early: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Count a request as under way for as long as what is returned lives.
    pub fn begin(self: Arc<Self>) -> UnderWay {
        self.begun.store(self.begun.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// Let the connection end when it has been idle for as long as it may be (and no more than
    /// `REST_AFTER` longer), or when the gateway reaches the phase `last`. One timer for many requests
    /// costs less than one for each.
    pub async fn watch(self: Arc<Self>, patience: Patience, mut phase: watch::Receiver<Phase>, last: Phase) {
        let look = REST_AFTER.min(patience.head).min(patience.idle);
        let (mut seen, mut idle) = (0, Duration::ZERO);
        loop {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase >= last) => break,
                () = sleep(look) => {}
            }
            let begun = self.begun.load(Ordering::Relaxed);
            if begun != seen || self.is_busy() {
                (seen, idle) = (begun, Duration::ZERO);
                continue;
            }
            idle += look;
            if idle >= (if begun == 0 { patience.head } else { patience.idle }) {
                break;
            }
            self.rest();
        }
        let until = Instant::now() + NEWCOMER;
        while *phase.borrow() >= last && self.begun.load(Ordering::Relaxed) == 0 && Instant::now() < until {
            sleep(NEWCOMER / 20).await;
        }
        self.end(Ending::Politely);
        sleep(patience.head).await;
        while self.is_busy() {
            sleep(patience.head).await;
        }
        self.end(Ending::Cut);
    }

    /// How the connection is to end, beyond what `so_far` has been done about it already.
    pub fn poll_ending(&self, so_far: Option<Ending>, cx: &mut Context<'_>) -> Poll<Ending> {
        self.waker.register(cx.waker());
        match self.ending.load(Ordering::Relaxed) {
            ending if ending == Ending::Cut as u8 => Poll::Ready(Ending::Cut),
            ending if ending == Ending::Politely as u8 && so_far.is_none() => Poll::Ready(Ending::Politely),
            _ => Poll::Pending,
        }
    }

    /// Whether what serving takes is to be given back now: it is time, nothing is under way, and all
    /// that was written was taken.
    pub fn takes_rest(&self) -> bool {
        self.resting.swap(false, Ordering::Relaxed)
            && !self.is_busy()
            && !self.blocked.load(Ordering::Relaxed)
            && !self.is_ended_by_us()
    }

    /// Remember whether the client has yet to take what was written to it.
    pub fn set_blocked(&self, blocked: bool) {
        let before = self.blocked.load(Ordering::Relaxed);
        self.blocked.store(blocked, Ordering::Relaxed);
        if before && !blocked {
            self.waker.wake();
        }
    }

    /// Ready once the client has taken all that was written to it; for the task that serves its
    /// connection, which is the one that is woken.
    pub fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.blocked.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        Poll::Pending
    }

    /// Remember that nothing more can be said to it.
    pub fn set_ended_by_us(&self) {
        self.ended_by_us.store(true, Ordering::Relaxed);
    }

    pub fn is_ended_by_us(&self) -> bool {
        self.ended_by_us.load(Ordering::Relaxed)
    }

    /// Remember that the connection as a whole becomes a tunnel.
    pub fn set_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    pub fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Have a whole interim answer written before the answer, unless the client has not yet taken what
    /// came before it, or more than `limit` bytes wait. (hyper begins with a request when all of the last
    /// answer is written; that nothing lands within one doesn't rest on that alone.)
    pub fn write_early(&self, head: &[u8], limit: usize) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.blocked.load(Ordering::Relaxed) && early.len() + head.len() <= limit {
            early.extend_from_slice(head);
            self.has_early.store(true, Ordering::Relaxed);
        }
    }

    /// What is to be written first.
    pub fn take_early(&self) -> Option<Vec<u8>> {
        self.has_early.load(Ordering::Relaxed).then(|| {
            self.has_early.store(false, Ordering::Relaxed);
            std::mem::take(&mut *self.early.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }

    fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    fn is_busy(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != self.ended.load(Ordering::Relaxed)
    }

    /// Have the connection end in this way.
    pub fn end(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// A request under way.
pub struct UnderWay(Arc<Client>);

impl UnderWay {
    pub fn client(&self) -> &Client {
        &self.0
    }

    /// Count what is done on behalf of this request and may outlive it.
    pub fn beside(&self) -> Self {
        Arc::clone(&self.0).begin()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.store(self.0.ended.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use std::time::Duration;

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(30),
        stall: Duration::from_secs(60),
    };

    fn client() -> Arc<Client> {
        Arc::new(Client::new(HeaderValue::from_static("192.0.2.1")))
    }

    async fn ending(client: &Client, so_far: Option<Ending>) -> Ending {
        poll_fn(|cx| client.poll_ending(so_far, cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_nothing_is_sent_away_and_one_that_dawdles_is_cut_off() {
        let (_sender, phase) = watch::channel(Phase::Serving);
        let client = client();
        let started = tokio::time::Instant::now();
        tokio::spawn(Arc::clone(&client).watch(PATIENCE, phase, Phase::Draining));
        assert_eq!(ending(&client, None).await, Ending::Politely);
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(ending(&client, Some(Ending::Politely)).await, Ending::Cut);
        assert_eq!(started.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_keeps_its_connection_however_long_it_takes() {
        let (sender, phase) = watch::channel(Phase::Serving);
        let client = client();
        let started = tokio::time::Instant::now();
        let under_way = Arc::clone(&client).begin();
        tokio::spawn(Arc::clone(&client).watch(PATIENCE, phase, Phase::Draining));
        sleep(Duration::from_secs(300)).await;
        sender.send_replace(Phase::Draining);
        assert_eq!(ending(&client, None).await, Ending::Politely);
        assert_eq!(started.elapsed().as_secs(), 300);
        sleep(Duration::from_secs(300)).await;
        drop(under_way);
        assert_eq!(ending(&client, Some(Ending::Politely)).await, Ending::Cut);
        assert!((600..=610).contains(&started.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_just_before_a_drain_may_still_ask_once() {
        for asks in [false, true] {
            let (sender, phase) = watch::channel(Phase::Serving);
            let client = client();
            tokio::spawn(Arc::clone(&client).watch(PATIENCE, phase, Phase::Draining));
            sender.send_replace(Phase::Draining);
            let started = tokio::time::Instant::now();
            sleep(Duration::from_millis(200)).await;
            let _under_way = asks.then(|| Arc::clone(&client).begin());
            assert_eq!(ending(&client, None).await, Ending::Politely);
            assert_eq!(started.elapsed() < Duration::from_millis(300), asks);
            assert!(started.elapsed() < Duration::from_millis(1_100));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_now_and_then_stays() {
        let (_sender, phase) = watch::channel(Phase::Serving);
        let client = client();
        tokio::spawn(Arc::clone(&client).watch(PATIENCE, phase, Phase::Draining));
        for _ in 0..50 {
            drop(Arc::clone(&client).begin());
            sleep(Duration::from_secs(25)).await;
            assert!(poll_fn(|cx| Poll::Ready(client.poll_ending(None, cx))).await.is_pending());
        }
        let last = tokio::time::Instant::now();
        assert_eq!(ending(&client, None).await, Ending::Politely);
        assert!((5..=10).contains(&last.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_pauses_takes_a_rest_unless_it_has_not_taken_its_answer() {
        let (_sender, phase) = watch::channel(Phase::Serving);
        let client = client();
        tokio::spawn(Arc::clone(&client).watch(PATIENCE, phase, Phase::Draining));
        drop(Arc::clone(&client).begin());
        sleep(Duration::from_secs(6)).await;
        assert!(!client.takes_rest());
        sleep(Duration::from_secs(5)).await;
        assert!(client.takes_rest());
        assert!(!client.takes_rest(), "once is enough");
        client.set_blocked(true);
        sleep(Duration::from_secs(5)).await;
        assert!(!client.takes_rest());
        client.set_blocked(false);
        let under_way = Arc::clone(&client).begin();
        sleep(Duration::from_secs(12)).await;
        assert!(!client.takes_rest());
        drop(under_way);
    }
}
