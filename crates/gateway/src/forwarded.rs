//! Where a request comes from, when proxies of one's own stand before the gateway.
//!
//! `X-Forwarded-For` says what each proxy saw, the nearest last; a client can write whatever it
//! likes before that. So it is read from its end, and only as far as those who wrote it are trusted:
//! those whose addresses are in the networks that were configured, or a fixed number of hops. What is
//! beyond is dropped, and never reaches a limit or an instance.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::Error;
use crate::config::Config;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Entries that are looked at; longer ways than this are a loop or an attack.
const ENTRIES: usize = 32;

/// Whose word on where a request comes from is taken.
pub enum Trust {
    Networks(Vec<IpNet>),
    /// So many proxies, whatever their addresses, the one that is connected among them.
    Hops(usize),
}

/// Where a request comes from by the word of trusted proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub address: String,
    /// The address and all proxies after it, for instances.
    pub way: HeaderValue,
}

impl Trust {
    pub fn new(config: &Config) -> Result<Option<Self>, Error> {
        let network = |text: &String| {
            let one = text.parse::<IpAddr>().map(IpNet::from);
            text.parse().or(one).map_err(|_| {
                Error::Config(format!("trusted_proxies: {text:?} is no network such as 10.0.0.0/8"))
            })
        };
        let wrong = |detail: &str| {
            Err(Error::Setting {
                setting: "proxy_protocol".into(),
                detail: format!("proxy_protocol: {detail}"),
            })
        };
        if config.proxy_protocol && config.trusted_proxies.is_empty() {
            return wrong("say in trusted_proxies who may send it, or anybody could be anybody");
        }
        if config.proxy_protocol && config.http3 {
            return wrong("HTTP/3 has none: leave http3 out");
        }
        match (config.trusted_proxies.is_empty(), config.trusted_hops) {
            (true, 0) => Ok(None),
            (true, hops) => Ok(Some(Self::Hops(hops))),
            (false, 0) => config
                .trusted_proxies
                .iter()
                .map(network)
                .collect::<Result<_, _>>()
                .map(Self::Networks)
                .map(Some),
            (false, _) => {
                Err(Error::Config("trusted_proxies and trusted_hops: set one of them, not both".into()))
            }
        }
    }

    /// Whether `address` itself is one of a trusted proxy.
    pub fn knows(&self, address: &IpAddr) -> bool {
        matches!(self, Self::Networks(_)) && self.trusts(0, address)
    }

    /// Where a request comes from that `peer` passed on; nothing if that is `peer` itself.
    pub fn origin(&self, peer: &str, headers: &HeaderMap) -> Option<Origin> {
        let peer = peer.parse().ok()?;
        let mut given = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .rev()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','))
            .take(ENTRIES);
        let mut way = vec![peer];
        while self.trusts(way.len(), way.last()?)
            && let Some(next) = given.next().and_then(address)
        {
            way.push(next);
        }
        if way.len() == 1 {
            return None;
        }
        let way: Vec<_> = way.iter().rev().map(IpAddr::to_string).collect();
        Some(Origin { address: way[0].clone(), way: HeaderValue::from_str(&way.join(", ")).ok()? })
    }

    fn trusts(&self, hop: usize, address: &IpAddr) -> bool {
        match self {
            Self::Networks(networks) => {
                networks.iter().any(|network| network.contains(&address.to_canonical()))
            }
            Self::Hops(hops) => hop <= *hops,
        }
    }
}

/// An entry as proxies write it: an address, some with a port.
fn address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(trust: &Trust, peer: &str, given: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        trust.origin(peer, &headers).map(|origin| origin.way.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_a_client_wrote_itself_counts_for_nothing() {
        let networks = Trust::Networks(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let seen = |peer: &str, given: &[&str]| origin(&networks, peer, given);
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"]), None);
        assert_eq!(seen("10.0.0.1", &[]), None);
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 192.0.2.1"]), Some("192.0.2.1, 10.0.0.1".into()));
        assert_eq!(
            seen("10.0.0.1", &["6.6.6.6", "192.0.2.1:4711 , 10.9.9.9"]),
            Some("192.0.2.1, 10.9.9.9, 10.0.0.1".into())
        );
        assert_eq!(seen("fd00::1", &["[2001:db8::1]:443"]), Some("2001:db8::1, fd00::1".into()));
        assert_eq!(seen("10.0.0.1", &["192.0.2.1, unknown"]), None);
        assert_eq!(seen("::ffff:10.0.0.1", &["192.0.2.1"]), Some("192.0.2.1, ::ffff:10.0.0.1".into()));
    }

    #[test]
    fn a_number_of_hops_is_trusted_whatever_their_addresses() {
        let seen = |hops: usize, given: &[&str]| origin(&Trust::Hops(hops), "203.0.113.9", given);
        assert_eq!(seen(1, &["6.6.6.6, 192.0.2.1"]), Some("192.0.2.1, 203.0.113.9".into()));
        assert_eq!(seen(2, &["6.6.6.6, 192.0.2.1, 7.7.7.7"]), Some("192.0.2.1, 7.7.7.7, 203.0.113.9".into()));
        assert_eq!(seen(9, &["192.0.2.1"]), Some("192.0.2.1, 203.0.113.9".into()));
    }
}
