//! Concurrency places of a service and the queue for them. `admission` decides; this module wakes waiting
//! requests and returns places on drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use counterfoil_policy::admission::{Admission, Ticket, Wait, patience_ns};
use counterfoil_policy::bulkhead::Bulkhead;
use hyper::StatusCode;
use tokio::sync::oneshot::{self, Receiver, Sender};

use crate::respond::Problem;

/// Maximum number of tiers.
pub const TIERS: usize = 8;

/// Sends true for a place, false if the request was pushed out of the queue.
type Waker = Sender<bool>;

/// The places of a service, shared across configurations: a request in flight counts whatever the settings
/// were when it began.
pub struct Places {
    admission: Admission<Waker>,
    /// Requests refused for lack of a place, by tier.
    pub shed: [AtomicU64; TIERS],
}

/// The priority of a request.
#[derive(Debug, Clone, Copy)]
pub struct Rank {
    /// 0 is the highest.
    pub tier: usize,
    pub tiers: usize,
}

impl Places {
    pub fn new(limit: usize, queue: usize) -> Arc<Self> {
        Arc::new(Self { admission: Admission::new(limit, queue), shed: Default::default() })
    }

    /// A place if one is free and no request waits.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        self.admission.enter().then(|| Place(Arc::clone(self)))
    }

    /// Wait for a place, as long as this rank may.
    ///
    /// # Errors
    /// A 503 if no place is free in time, the queue is full, or a request of a higher tier takes its slot in
    /// the queue.
    pub async fn wait(self: &Arc<Self>, rank: Rank, longest: Duration) -> Result<Place, Problem> {
        let longest_ns = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let patience = Duration::from_nanos(patience_ns(rank.tier, rank.tiers, longest_ns));
        let place = if patience.is_zero() { None } else { self.queue(rank.tier, patience).await };
        place.ok_or_else(|| {
            self.shed[rank.tier.min(TIERS - 1)].fetch_add(1, Ordering::Relaxed);
            let detail = "the service has as many requests as it may have";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
        })
    }

    async fn queue(self: &Arc<Self>, tier: usize, patience: Duration) -> Option<Place> {
        let (waker, woken) = oneshot::channel();
        let ticket = match self.admission.wait(tier, waker) {
            Wait::Admitted => return Some(Place(Arc::clone(self))),
            Wait::Refused => return None,
            Wait::Waits { ticket, pushed_out, admitted } => {
                if let Some(waker) = pushed_out {
                    // Fails if its client has disconnected, which is fine.
                    let _ = waker.send(false);
                }
                self.wake(admitted);
                ticket
            }
        };
        let mut waiting = Waiting { places: self, ticket, woken };
        let admitted =
            tokio::time::timeout(patience, &mut waiting.woken).await.is_ok_and(|woken| woken == Ok(true));
        if admitted {
            std::mem::forget(waiting);
        }
        admitted.then(|| Place(Arc::clone(self)))
    }

    /// Change both bounds.
    pub fn resize(&self, limit: usize, queue: usize) {
        self.admission.resize(limit, queue);
        self.fill();
    }

    /// Change the number of places.
    pub fn set_limit(&self, limit: usize) {
        self.admission.set_limit(limit);
        self.fill();
    }

    pub fn limit(&self) -> usize {
        self.admission.limit()
    }

    pub fn in_flight(&self) -> usize {
        self.admission.in_flight()
    }

    pub fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    fn fill(&self) {
        while let Some(waker) = self.admission.fill() {
            self.wake(Some(waker));
        }
    }

    /// Give a place to a waiting request. If its client has disconnected, the place goes to the next.
    fn wake(&self, mut next: Option<Waker>) {
        while let Some(waker) = next {
            next = if waker.send(true).is_ok() { None } else { self.admission.leave() };
        }
    }
}

/// A request in flight to a service, counted until dropped.
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.wake(self.0.admission.leave());
    }
}

/// A request in the queue; it leaves the queue if this is dropped without a place.
struct Waiting<'a> {
    places: &'a Places,
    ticket: Ticket,
    woken: Receiver<bool>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.places.admission.give_up(self.ticket) {
            self.woken.close();
            if self.woken.try_recv() == Ok(true) {
                self.places.wake(self.places.admission.leave());
            }
        }
    }
}

/// One of a tenant's concurrent requests.
pub struct Share {
    bulkhead: Arc<Bulkhead>,
    tenant: Box<str>,
}

impl Share {
    pub fn take(bulkhead: &Arc<Bulkhead>, tenant: &str) -> Result<Self, Problem> {
        if bulkhead.enter(tenant) {
            return Ok(Self { bulkhead: Arc::clone(bulkhead), tenant: tenant.into() });
        }
        let detail = "the tenant has as many requests under way as it may have";
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bulkhead.leave(&self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: Rank = Rank { tier: 0, tiers: 2 };
    const BOTTOM: Rank = Rank { tier: 1, tiers: 2 };
    const LONGEST: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_back_goes_to_who_waits_and_the_lowest_tier_does_not() {
        let places = Places::new(1, 4);
        let first = places.take().unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(places.wait(BOTTOM, LONGEST).await.err().unwrap().status, 503);
        assert!(began.elapsed().is_zero());
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.wait(TOP, LONGEST).await.is_ok() }
        });
        while places.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(places.take().is_none());
        drop(first);
        assert!(waiting.await.unwrap());
        assert_eq!((places.in_flight(), places.waiting()), (0, 0));
        assert_eq!(places.shed[1].load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_or_hangs_up_leaves_nothing_behind() {
        let places = Places::new(1, 4);
        let first = places.take().unwrap();
        assert!(places.wait(TOP, LONGEST).await.is_err());
        let hangs_up = Box::pin(places.wait(TOP, LONGEST));
        assert!(tokio::time::timeout(LONGEST / 2, hangs_up).await.is_err());
        assert_eq!(places.waiting(), 0);
        // A request that is cancelled just as it gets a place passes the place on.
        let mut hangs_up = Box::pin(places.wait(TOP, LONGEST));
        assert!(tokio::time::timeout(LONGEST / 2, &mut hangs_up).await.is_err());
        drop(first);
        assert_eq!(places.in_flight(), 1);
        drop(hangs_up);
        assert_eq!(places.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_places_let_who_waits_in() {
        let places = Places::new(0, 4);
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.wait(TOP, LONGEST).await.is_ok() }
        });
        while places.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        places.set_limit(1);
        assert!(waiting.await.unwrap());
    }
}
