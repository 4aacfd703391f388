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

/// An HTTP/1.1 connection releases its buffers after one to two times this long without a request: well above
/// the pauses of a user who is working on a page, well below the idle timeout.
const REST_AFTER: Duration = Duration::from_secs(5);

/// How long a connection without a request yet stays open when the gateway begins to drain: it was accepted,
/// and its client would take an immediate close for a failure.
const NEWCOMER: Duration = Duration::from_secs(1);

/// State of a client connection. Its counters are written and read by one thread.
pub struct Client {
    /// The peer's address, without the port.
    pub address: HeaderValue,
    begun: AtomicU64,
    ended: AtomicU64,
    ending: AtomicU8,
    /// Whether to release the buffers at the next opportunity.
    resting: AtomicBool,
    /// Whether written bytes have not been sent yet.
    blocked: AtomicBool,
    /// Whether we have shut down our side.
    ended_by_us: AtomicBool,
    /// Whether the connection has become a tunnel.
    tunnel: AtomicBool,
    /// Interim (1xx) answers to write before anything from hyper.
    early: Mutex<Vec<u8>>,
    has_early: AtomicBool,
    waker: AtomicWaker,
}

/// How a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Gracefully, in the protocol's own way, after the requests in flight.
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

    /// Count a request as in flight until the returned guard is dropped.
    pub fn begin(self: Arc<Self>) -> UnderWay {
        self.begun.store(self.begun.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// End the connection when its idle timeout has passed (at most `REST_AFTER` late), or when the gateway
    /// reaches the phase `last`. One timer per connection costs less than one per request.
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

    /// How the connection must end; ready only if that goes beyond `so_far`.
    pub fn poll_ending(&self, so_far: Option<Ending>, cx: &mut Context<'_>) -> Poll<Ending> {
        self.waker.register(cx.waker());
        match self.ending.load(Ordering::Relaxed) {
            ending if ending == Ending::Cut as u8 => Poll::Ready(Ending::Cut),
            ending if ending == Ending::Politely as u8 && so_far.is_none() => Poll::Ready(Ending::Politely),
            _ => Poll::Pending,
        }
    }

    /// Whether to release the connection's buffers now: release was requested, no request is in flight, and
    /// everything written has been sent.
    pub fn takes_rest(&self) -> bool {
        self.resting.swap(false, Ordering::Relaxed)
            && !self.is_busy()
            && !self.blocked.load(Ordering::Relaxed)
            && !self.is_ended_by_us()
    }

    /// Record whether written bytes have not been sent yet.
    pub fn set_blocked(&self, blocked: bool) {
        let before = self.blocked.load(Ordering::Relaxed);
        self.blocked.store(blocked, Ordering::Relaxed);
        if before && !blocked {
            self.waker.wake();
        }
    }

    /// Ready once everything written has been sent. Call it only from the task that serves the connection:
    /// that is the one to be woken.
    pub fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.blocked.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        Poll::Pending
    }

    /// Record that our side of the connection is shut down.
    pub fn set_ended_by_us(&self) {
        self.ended_by_us.store(true, Ordering::Relaxed);
    }

    pub fn is_ended_by_us(&self) -> bool {
        self.ended_by_us.load(Ordering::Relaxed)
    }

    /// Record that the whole connection becomes a tunnel.
    pub fn set_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    pub fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Queue a complete interim answer to be written before the final one. It is dropped if earlier bytes are
    /// still unsent or if more than `limit` bytes would be queued. (hyper starts a request only after it has
    /// written the last answer in full; that an interim answer never lands inside another doesn't rest on
    /// that alone.)
    pub fn write_early(&self, head: &[u8], limit: usize) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.blocked.load(Ordering::Relaxed) && early.len() + head.len() <= limit {
            early.extend_from_slice(head);
            self.has_early.store(true, Ordering::Relaxed);
        }
    }

    /// Take the queued interim answers.
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

    /// Tell the serving task to end the connection.
    pub fn end(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// A request in flight; dropping it ends the count.
pub struct UnderWay(Arc<Client>);

impl UnderWay {
    pub fn client(&self) -> &Client {
        &self.0
    }

    /// Count work on behalf of this request that may outlive it.
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
