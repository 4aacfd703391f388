//! Network allow and deny lists of routes.

use std::net::IpAddr;

use hyper::StatusCode;
use ipnet::IpNet;

use crate::Error;
use crate::config::Route;
use crate::respond::Problem;

/// The lists of one route.
pub struct Addresses {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

impl Addresses {
    /// The lists of a route; `None` if it has none.
    ///
    /// # Errors
    /// `Error::Config` for an invalid network.
    pub fn new(route: &Route) -> Result<Option<Self>, Error> {
        let networks = |given: &[String]| {
            let parsed = given.iter().map(|text| {
                let network: Result<IpNet, _> =
                    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                network.map_err(|_| {
                    Error::Config(format!("route {}: {text} is no network such as 10.0.0.0/8", route.path))
                })
            });
            parsed.collect::<Result<Vec<_>, _>>()
        };
        let (allowed, denied) = (networks(&route.allow)?, networks(&route.deny)?);
        Ok((!allowed.is_empty() || !denied.is_empty()).then_some(Self { allowed, denied }))
    }

    /// Check a request's address: it must not be denied and, if there is an allow list, must be in it. An
    /// IPv4-mapped IPv6 address counts as IPv4.
    ///
    /// # Errors
    /// 403, without the reason.
    pub fn check(&self, address: &str) -> Result<(), Problem> {
        let within =
            |networks: &[IpNet], address: &IpAddr| networks.iter().any(|each| each.contains(address));
        let passes = address.parse::<IpAddr>().is_ok_and(|address| {
            let address = address.to_canonical();
            !within(&self.denied, &address) && (self.allowed.is_empty() || within(&self.allowed, &address))
        });
        if passes {
            Ok(())
        } else {
            Err(Problem::new(StatusCode::FORBIDDEN, "this address may not ask here"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_stays_out_though_it_is_allowed_and_what_no_list_knows_too() {
        let networks = |given: &[&str]| given.iter().map(|each| each.parse().unwrap()).collect();
        let lists =
            Addresses { allowed: networks(&["10.0.0.0/8", "fd00::/8"]), denied: networks(&["10.1.0.0/16"]) };
        let passes = |address: &str| lists.check(address).is_ok();
        assert!(passes("10.0.0.1") && passes("fd00::1") && passes("::ffff:10.0.0.1"));
        for address in ["10.1.0.1", "::ffff:10.1.0.1", "192.0.2.1", "2001:db8::1", "", "10.0.0.1:80"] {
            assert!(!passes(address), "{address}");
        }
        assert!(Addresses { allowed: Vec::new(), ..lists }.check("192.0.2.1").is_ok());
    }
}
