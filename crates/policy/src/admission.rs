//! Concurrency limit of a service with a bounded priority queue.
//!
//! A place is free or it isn't; where none is, the tiers decide. A newcomer waits, in a queue that is
//! bounded in length and in time; a place that becomes free goes to the highest tier that waits,
//! and in it to who came first. A full queue sends away the newest of its lowest tier, if a higher one
//! comes. How long one waits falls with its tier, down to nothing for the lowest ([`patience_ns`]),
//! which is so refused at once, by one look at two numbers.
//!
//! **Why there is no controller.** The wait of the highest class in a priority queue depends on its own
//! load and on the rest of one service time, whatever the other classes ask for (Cobham, "Priority
//! assignment in waiting line problems", 1954). So Gold keeps its latency at any overload that is not
//! its own, from the first request on, and nothing has to be learnt or forgotten when it is over. Load
//! shedding by thresholds that follow measured delays (DAGOR: Zhou et al., "Overload control for scaling
//! WeChat microservices", 2018) is for servers that can't see how full their backend is; the gateway
//! can, and what it has to learn, how much is full, is learnt by `gradient`.
//!
//! **Why the queue is short and plain.** A queue absorbs bursts shorter than its timeout; a longer wait
//! only makes requests late that others could have had answered. CoDel finds out when a long queue stands
//! (Nichols and Jacobson, 2012); one that may stand for a tenth of a second at most has nothing to find.
//!
//! The way of a request that finds a place is an addition, without a lock. No place is ever left free
//! while somebody waits: who waits says so before a last look for a place, and who leaves gives the place
//! back before a last look for who waits (`tests/interleavings.rs`).

use std::collections::BTreeMap;

use crate::sync::{AtomicUsize, Mutex, Ordering, lock, one_sees_the_other};

/// Places, and a queue for them. `W` is whatever wakes one that waits.
pub struct Admission<W> {
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    queue: Mutex<Queue<W>>,
}

struct Queue<W> {
    capacity: usize,
    last_ticket: u64,
    /// By tier, 0 being the highest, and then by ticket.
    waiters: BTreeMap<Ticket, W>,
}

/// Who waits: the tier, and a number that grows.
pub type Ticket = (usize, u64);

/// What became of somebody who would wait.
pub enum Wait<W> {
    /// There was a place after all.
    Admitted,
    /// As many wait as may, none of them of a lower tier.
    Refused,
    Waits {
        ticket: Ticket,
        /// To be woken without a place, for this one.
        pushed_out: Option<W>,
        /// To be woken with a place, which became free just now; it may be this one.
        admitted: Option<W>,
    },
}

impl<W> Admission<W> {
    /// `limit` places, and `capacity` who may wait for one.
    #[must_use]
    pub fn new(limit: usize, capacity: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue { capacity, last_ticket: 0, waiters: BTreeMap::new() }),
        }
    }

    /// Take a place if there is one and nobody waits for it. Each must be given back by `leave`.
    pub fn enter(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.take()
    }

    /// Wait for a place, which is then given back like any other.
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
        // Who left before this could be seen has not looked for it.
        let admitted = if self.take() { self.next(&mut queue) } else { None };
        Wait::Waits { ticket, pushed_out, admitted }
    }

    /// Wait no longer. `false` if a place was given meanwhile, or this one was pushed out.
    pub fn give_up(&self, ticket: Ticket) -> bool {
        let mut queue = lock(&self.queue);
        let waited = queue.waiters.remove(&ticket).is_some();
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        waited
    }

    /// Give a place back; who is to be woken with it.
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

    /// Who is to be woken with a place that is free, if there is one. To be asked until there is none
    /// after the limit was raised.
    #[must_use]
    pub fn fill(&self) -> Option<W> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        if queue.waiters.is_empty() || !self.take() { None } else { self.next(&mut queue) }
    }

    /// Change both bounds. Who is in stays in.
    pub fn resize(&self, limit: usize, capacity: usize) {
        self.limit.store(limit, Ordering::SeqCst);
        lock(&self.queue).capacity = capacity;
    }

    /// Change the number of places.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// How many places there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many places are taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many wait.
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

/// How long one of a tier waits for a place: the highest of `tiers` the whole of `longest_ns`, the
/// lowest not at all. Where there is one tier, it waits.
#[must_use]
pub fn patience_ns(tier: usize, tiers: usize, longest_ns: u64) -> u64 {
    match tiers.saturating_sub(1) as u64 {
        0 => longest_ns,
        below => longest_ns / below * (tiers - 1).saturating_sub(tier) as u64,
    }
}
