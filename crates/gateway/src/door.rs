//! Connection limits of a port, and the timeouts of its connections.
//!
//! Many idle connections exhaust descriptors and memory before anything else. So connections are counted, in
//! total and per address, from before the first TLS byte until they end. A connection over the limit is
//! closed at once without an answer, which costs least.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use rustls::ServerConfig;

use crate::Error;
use crate::config::Clients;
use crate::shared::Phase;

/// What all connections of a port have in common.
pub struct Door {
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether connections begin with a PROXY protocol header (`proxy_protocol`).
    pub announced: bool,
    /// Whether HTTP/3 connections are served before their handshake is complete (0-RTT).
    pub early_data: bool,
    /// The `Alt-Svc` header (RFC 7838) of answers.
    pub alternative: Option<HeaderValue>,
    /// Whether this is the client port: its connections are counted, and a drain waits for them.
    pub for_clients: bool,
    /// The phase from which no connection is accepted.
    pub last: Phase,
    pub patience: Patience,
    pub places: Arc<Places>,
}

/// Timeouts of a client connection.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the first request (TLS handshake included), and for the complete head of any request.
    pub head: Duration,
    /// For the next request.
    pub idle: Duration,
    /// For the client to receive the next part of an answer.
    pub stall: Duration,
}

impl Patience {
    /// # Errors
    /// `Error::Config`: a value isn't a valid number of seconds.
    pub fn new(clients: &Clients) -> Result<Self, Error> {
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .map_err(|error| Error::Config(format!("clients.{name}: {error}")))
        };
        Ok(Self {
            head: seconds("head_seconds", clients.head_seconds)?,
            idle: seconds("idle_seconds", clients.idle_seconds)?,
            stall: seconds("stall_seconds", clients.stall_seconds)?,
        })
    }
}

/// The connection limits; 0 means unlimited.
#[derive(Default)]
pub struct Places {
    most: usize,
    most_each: usize,
    taken: AtomicUsize,
    /// Per address, if that is limited; an address without connections has no entry.
    taken_each: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    pub fn new(clients: &Clients) -> Self {
        let (most, most_each) = (clients.connections, clients.connections_per_address);
        Self { most, most_each, ..Self::default() }
    }

    /// A place for a connection from this address; `None` if a limit is reached.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut place = self.take_for_whomever()?;
        place.settle(address).then_some(place)
    }

    /// A place for a connection whose client address isn't known yet.
    pub fn take_for_whomever(self: &Arc<Self>) -> Option<Place> {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most && self.most > 0 {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { places: Arc::clone(self), address: None })
    }
}

/// The unit that the per-address limit counts: an IPv4 address, or an IPv6 /64 prefix.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

/// A connection's place, freed on drop.
pub struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
}

impl Place {
    /// Count the connection for this address; false if the address has reached its limit.
    pub fn settle(&mut self, address: IpAddr) -> bool {
        if self.places.most_each == 0 {
            return true;
        }
        let site = site(address);
        let mut taken_each = self.places.taken_each.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = taken_each.entry(site).or_default();
        if *taken >= self.places.most_each {
            return false;
        }
        *taken += 1;
        self.address = Some(site);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            let mut taken_each = self.places.taken_each.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(taken) = taken_each.get_mut(&address) {
                *taken -= 1;
                if *taken == 0 {
                    taken_each.remove(&address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, connections_per_address: usize) -> Arc<Places> {
        let clients = Clients {
            head_seconds: 1.0,
            idle_seconds: 1.0,
            stall_seconds: 1.0,
            connections,
            connections_per_address,
            congestion: None,
        };
        Arc::new(Places::new(&clients))
    }

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let places = places(2, 0);
        let (first, _second) = (places.take(at("192.0.2.1")).unwrap(), places.take(at("192.0.2.1")).unwrap());
        assert!(places.take(at("192.0.2.2")).is_none());
        drop(first);
        assert!(places.take(at("192.0.2.2")).is_some());
    }

    #[test]
    fn an_address_of_ipv4_and_a_network_of_ipv6_have_places_of_their_own() {
        let places = places(0, 1);
        let _held = [places.take(at("192.0.2.1")).unwrap(), places.take(at("2001:db8::1")).unwrap()];
        for taken in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::2"] {
            assert!(places.take(at(taken)).is_none(), "{taken}");
        }
        for free in ["192.0.2.2", "2001:db8:0:1::1"] {
            assert!(places.take(at(free)).is_some(), "{free}");
        }
        assert_eq!(places.taken_each.lock().unwrap().len(), 2);
    }

    #[test]
    fn whoever_finds_no_place_takes_none() {
        let places = places(0, 1);
        let held = places.take(at("192.0.2.1")).unwrap();
        assert!(places.take(at("192.0.2.1")).is_none());
        assert_eq!(places.taken.load(Ordering::Relaxed), 1);
        drop(held);
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }
}
