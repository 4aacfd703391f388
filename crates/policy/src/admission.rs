//! Concurrency limit of a service with a bounded priority queue.
//!
//! If no place is free, a request waits in a queue that is bounded in length and in time. A place that
//! becomes free goes to the highest waiting tier, and within it to the request that came first. If the queue
//! is full, a request of a higher tier pushes out the newest of the lowest tier. The time that a request may
//! wait falls with its tier, down to nothing for the lowest ([`patience_ns`]), which is therefore refused at
//! once, after two loads.
//!
//! **Why there is no controller.** The wait of the highest class in a priority queue depends on its own load
//! and on the rest of one service time, whatever load the other classes offer (Cobham, "Priority assignment
//! in waiting line problems", 1954). So Gold keeps its latency under any overload that it doesn't cause
//! itself, from the first request on, and nothing has to be learned or unlearned. Load shedding by thresholds
//! that follow measured delays (DAGOR: Zhou et al., "Overload control for scaling WeChat microservices",
//! 2018) is for servers that can't see how full their backend is. The gateway can; the limit itself is
//! learned by `gradient`.
//!
//! **Why the queue is short and plain.** A queue absorbs bursts shorter than its timeout; a longer wait only
//! makes requests late and takes places from others that could be answered in time. CoDel detects a standing
//! queue (Nichols and Jacobson, 2012); one that stands for a tenth of a second at most needs no detection.
//!
//! A request that finds a place costs an addition, without a lock. No place stays free while a request waits:
//! a waiter announces itself before a last check for a place, and a leaver returns its place before a last
//! check for waiters (`tests/interleavings.rs`).

use std::collections::BTreeMap;

use crate::sync::{AtomicUsize, Mutex, Ordering, lock, one_sees_the_other};

/// Places and their queue. `W` is the handle that wakes a waiter.
pub struct Admission<W> {
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    queue: Mutex<Queue<W>>,
}

struct Queue<W> {
    capacity: usize,
    last_ticket: u64,
    /// Ordered by tier, 0 being the highest, then by ticket.
    waiters: BTreeMap<Ticket, W>,
}

/// A waiter: its tier and an increasing number.
pub type Ticket = (usize, u64);

/// The outcome of `wait`.
pub enum Wait<W> {
    /// A place was free after all.
    Admitted,
    /// The queue is full, and no waiter is of a lower tier.
    Refused,
    Waits {
        ticket: Ticket,
        /// A waiter that this one has pushed out, to be woken without a place.
        pushed_out: Option<W>,
        /// A waiter to be woken with a place that has just become free; it may be this one.
        admitted: Option<W>,
    },
}

impl<W> Admission<W> {
    /// `limit` places and a queue of `capacity`.
    #[must_use]
    pub fn new(limit: usize, capacity: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue { capacity, last_ticket: 0, waiters: BTreeMap::new() }),
        }
    }

    /// Take a place if one is free and the queue is empty. Each must be returned by `leave`.
    pub fn enter(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.take()
    }

    /// Join the queue; a place gained is returned by `leave` too.
    pub fn wait(&self, tier: usize, waiter: W) -> Wait<W> {
        let mut queue = lock(&self.queue);
        if queue.waiters.is_empty() && self.take() {
            return Wait::Admitted;
        }
        let mut pushed_out = None;
        if queue.waiters.len() >= queue.capacity {
            let Some(lowest) = queue.waiters.last_entry().filter(|lowest| lowest.key().0 > tier) else {
                return Wait::Refused;
            };
            pushed_out = Some(lowest.remove());
        }
        queue.last_ticket += 1;
        let ticket = (tier, queue.last_ticket);
        queue.waiters.insert(ticket, waiter);
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        one_sees_the_other();
        // A leaver that didn't see this waiter hasn't filled its place.
        let admitted = if self.take() { self.next(&mut queue) } else { None };
        Wait::Waits { ticket, pushed_out, admitted }
    }

    /// Leave the queue. `false` if this waiter was already given a place or pushed out.
    pub fn give_up(&self, ticket: Ticket) -> bool {
        let mut queue = lock(&self.queue);
        let waited = queue.waiters.remove(&ticket).is_some();
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        waited
    }

    /// Return a place; returns the waiter to be woken with it.
    #[must_use]
    pub fn leave(&self) -> Option<W> {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let mut queue = lock(&self.queue);
            if self.in_flight.load(Ordering::SeqCst) <= self.limit.load(Ordering::SeqCst)
                && let Some(next) = self.next(&mut queue)
            {
                return Some(next);
            }
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        one_sees_the_other();
        self.fill()
    }

    /// The waiter to be woken with a free place, if there is one. After raising the limit, call it until it
    /// returns `None`.
    #[must_use]
    pub fn fill(&self) -> Option<W> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        if queue.waiters.is_empty() || !self.take() { None } else { self.next(&mut queue) }
    }

    /// Change both bounds. Requests already admitted stay.
    pub fn resize(&self, limit: usize, capacity: usize) {
        self.limit.store(limit, Ordering::SeqCst);
        lock(&self.queue).capacity = capacity;
    }

    /// Change the number of places.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// Number of places.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Number of places taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Number of waiters.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        let one_more = |in_flight| (in_flight < limit).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    fn next(&self, queue: &mut Queue<W>) -> Option<W> {
        let next = queue.waiters.pop_first().map(|(_, waiter)| waiter);
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        next
    }
}

/// How long a request of a tier may wait: `longest_ns` for the highest of `tiers`, nothing for the lowest.
/// With a single tier, it is `longest_ns`.
#[must_use]
pub fn patience_ns(tier: usize, tiers: usize, longest_ns: u64) -> u64 {
    match tiers.saturating_sub(1) as u64 {
        0 => longest_ns,
        below => longest_ns / below * (tiers - 1).saturating_sub(tier) as u64,
    }
}
