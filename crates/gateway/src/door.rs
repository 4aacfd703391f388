//! Admission of connections to a port, and the timeouts that apply to them.
//!
//! Descriptors and memory run out before anything else does where many connect and few ask: so
//! connections are counted, in all and for each address, from before the first byte of TLS until
//! they end. Whoever comes beyond is let go at once, without an answer, which is what costs least.

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

/// What the connections of a port have in common.
pub struct Door {
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether connections begin by saying whose they are (`proxy_protocol`).
    pub announced: bool,
    /// Whether connections of HTTP/3 are served from their first datagram on.
    pub early_data: bool,
    /// Where else the same is served (RFC 7838), for the answers.
    pub alternative: Option<HeaderValue>,
    /// Whether it is for clients, who are counted, and whom a drain waits for.
    pub for_clients: bool,
    /// The phase in which nobody new is let in.
    pub last: Phase,
    pub patience: Patience,
    pub places: Arc<Places>,
}

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For its first request, and for the end of the head of any, the handshake before included.
    pub head: Duration,
    /// For its next request.
    pub idle: Duration,
    /// For it to take the next part of an answer.
    pub stall: Duration,
}

impl Patience {
    /// # Errors
    /// A time is no number of seconds.
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

/// The connections that there may be; 0 for as many as come.
#[derive(Default)]
pub struct Places {
    most: usize,
    most_each: usize,
    taken: AtomicUsize,
    /// By address, where that is limited: as many entries as there are connections.
    taken_each: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    pub fn new(clients: &Clients) -> Self {
        let (most, most_each) = (clients.connections, clients.connections_per_address);
        Self { most, most_each, ..Self::default() }
    }

    /// A place for a connection from this address, unless they are taken.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut place = self.take_for_whomever()?;
        place.settle(address).then_some(place)
    }

    /// A place for a connection of which it is still to be heard whose it is.
    pub fn take_for_whomever(self: &Arc<Self>) -> Option<Place> {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most && self.most > 0 {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { places: Arc::clone(self), address: None })
    }
}

/// What one customer of a network has: an address of IPv4, a prefix of 64 bits of IPv6.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

/// A connection's place, free again when this is dropped.
pub struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
}

impl Place {
    /// Count it as one of this address, unless that has as many as it may have.
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
