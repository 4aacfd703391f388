//! Request collapsing: of concurrent misses for one response, one fetches and the others wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use tokio::sync::watch;

use crate::cache::request::FlightKey;
use crate::cache::stored::Stored;

/// The outcome of a fetch, for the waiting requests.
#[derive(Clone)]
pub enum Landing {
    Stored(Arc<Stored>),
    /// A response that can't be shared.
    Passed,
    /// No response, or one that reports a failure.
    Failed(StatusCode),
}

type Slots = Arc<Mutex<HashMap<FlightKey, watch::Receiver<Option<Landing>>>>>;

/// Fetches that other requests may wait for. Bounded by the services' concurrency limits: each holds a permit
/// of its service or is about to fail for lack of one.
#[derive(Default)]
pub struct Flights(Slots);

/// What a request has to do.
pub enum Ticket {
    /// Fetch, and tell the others.
    Lead(Flight),
    /// Wait for another request's fetch.
    Follow(Waiting),
}

impl Flights {
    /// Join the fetch for `key` under way, or start one.
    pub fn board(&self, key: FlightKey) -> Ticket {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return Ticket::Follow(Waiting(flight.clone()));
        }
        let (landing, waiting) = watch::channel(None);
        flights.insert(key.clone(), waiting);
        Ticket::Lead(Flight { flights: Arc::clone(&self.0), key, landing })
    }
}

/// The right and the duty to fetch. Dropping it wakes the waiting requests, so they never wait in vain.
pub struct Flight {
    flights: Slots,
    key: FlightKey,
    landing: watch::Sender<Option<Landing>>,
}

impl Flight {
    /// Tell the waiting requests.
    pub fn land(self, landing: Landing) {
        self.landing.send_replace(Some(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A wait for another request's fetch.
pub struct Waiting(watch::Receiver<Option<Landing>>);

impl Waiting {
    /// The outcome; `None` if the fetch was abandoned.
    pub async fn landed(&mut self) -> Option<Landing> {
        match self.0.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone(),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> FlightKey {
        (Box::from(&b"key"[..]), Box::default())
    }

    #[tokio::test]
    async fn who_waits_hears_what_became_of_it_and_the_next_asks_anew() {
        let flights = Flights::default();
        let Ticket::Lead(flight) = flights.board(key()) else { panic!("nobody asks yet") };
        let Ticket::Follow(mut waiting) = flights.board(key()) else { panic!("somebody asks") };
        let other = (Box::from(&b"key"[..]), Box::from(&b"another variant"[..]));
        assert!(matches!(flights.board(other), Ticket::Lead(_)));
        flight.land(Landing::Failed(StatusCode::BAD_GATEWAY));
        assert!(matches!(waiting.landed().await, Some(Landing::Failed(StatusCode::BAD_GATEWAY))));
        assert!(matches!(flights.board(key()), Ticket::Lead(_)));
    }

    #[tokio::test]
    async fn nobody_waits_for_one_that_asks_no_more() {
        let flights = Flights::default();
        let Ticket::Lead(flight) = flights.board(key()) else { panic!("nobody asks yet") };
        let Ticket::Follow(mut waiting) = flights.board(key()) else { panic!("somebody asks") };
        drop(flight);
        assert!(waiting.landed().await.is_none());
        assert!(matches!(flights.board(key()), Ticket::Lead(_)));
    }
}
