//! The origin of a request behind trusted proxies (X-Forwarded-For).
//!
//! Each proxy appends to `X-Forwarded-For` the address that it saw; everything before those entries may be
//! forged by the client. So the gateway reads the list from its end, as long as the writers are trusted:
//! those in the configured networks, or a fixed number of hops. The rest is dropped and never reaches a limit
//! or an instance. The same rule applies to other forwarding headers (`Forwarded`, `X-Forwarded-Host` and the
//! like), which the gateway doesn't use itself: it passes on those of trusted proxies, and sets scheme and
//! host if they don't.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use ipnet::IpNet;

use crate::Error;
use crate::config::Config;
use crate::headers::as_read;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Scheme, and host with port, of the client's request to the first of our proxies.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Maximum number of entries read; a longer list is a loop or an attack.
const ENTRIES: usize = 32;

/// Which proxies are trusted.
pub enum Trust {
    Networks(Vec<IpNet>),
    /// This many proxies, whatever their addresses, including the connected peer.
    Hops(usize),
}

/// The origin of a request according to trusted proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub address: String,
    /// The client's address and all proxies after it, for instances.
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

    /// Whether `address` is a trusted proxy's.
    pub fn knows(&self, address: &IpAddr) -> bool {
        matches!(self, Self::Networks(_)) && self.trusts(0, address)
    }

    /// The origin of a request forwarded by `peer`; `None` if `peer` itself is the origin.
    pub fn origin(&self, peer: &str, headers: &HeaderMap) -> Option<Origin> {
        let peer = peer.parse().ok()?;
        let mut given = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .rev()
            .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
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

    /// Whether forwarding headers from `peer` are trusted.
    fn believes(&self, peer: &str) -> bool {
        peer.parse().is_ok_and(|peer| self.trusts(1, &peer))
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

/// Sanitize the headers that only proxies may set: the request's origin, scheme and host. They are removed
/// unless `peer` is trusted, since services believe them. Scheme and host are set if no trusted proxy has:
/// services build links and redirects from them, and the `Host` that they get names an instance. `secured` is
/// whether clients speak TLS with the gateway.
pub fn see_to_claims(trust: Option<&Trust>, peer: &str, parts: &mut Parts, secured: bool) {
    let headers = &mut parts.headers;
    let (mut scheme, mut host) = (false, false);
    if headers.keys().any(is_claim) {
        if trust.is_some_and(|trust| trust.believes(peer)) {
            let said = |claim: &HeaderName| {
                headers.keys().any(|name| is_claim(name) && *as_read(name.as_str()) == *claim.as_str())
            };
            (scheme, host) = (said(&FORWARDED_PROTO), said(&FORWARDED_HOST));
        } else {
            let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name)).cloned().collect();
            for claim in claims {
                headers.remove(claim);
            }
        }
    }
    if !scheme {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if secured { "https" } else { "http" }));
    }
    if !host {
        let asked = match parts.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => headers.get(header::HOST).cloned(),
        };
        if let Some(asked) = asked {
            headers.insert(FORWARDED_HOST, asked);
        }
    }
}

/// Not `X-Forwarded-For`: it is parsed and rewritten.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str();
    if !name.starts_with(['f', 'x']) {
        return false;
    }
    let name = &*as_read(name);
    matches!(name, "forwarded" | "x-real-ip") || name.starts_with("x-forwarded-") && name != FORWARDED_FOR
}

/// The forwarding headers that describe the requested URL: scheme, host, port and prefix. Services build
/// links and redirects from them, so a cached answer is valid only for the same values. The client's identity
/// (`for` and `by` in `Forwarded`, `X-Real-IP`) is left out.
pub fn claimed_address(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &[u8])> {
    let is_who = |said: &[u8]| {
        let name = said.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        [&b"for"[..], b"by", b""].iter().any(|who| name.eq_ignore_ascii_case(who))
    };
    let claims = headers.iter().filter(|(name, _)| is_claim(name) && *as_read(name.as_str()) != *"x-real-ip");
    claims.flat_map(move |(name, value)| {
        let said = value.as_bytes().split(|byte| matches!(byte, b',' | b';')).map(<[u8]>::trim_ascii);
        said.filter(move |said| name != header::FORWARDED || !is_who(said)).map(move |said| (name, said))
    })
}

/// Parse an entry: an address, possibly with a port. Anything else ends the list: skipping it would make an
/// entry that the client forged look like a proxy's.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(trust: &Trust, peer: &str, given: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap());
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
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "\u{e4}, 192.0.2.1"]), Some("192.0.2.1, 10.0.0.1".into()));
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "\u{e4}"]), None);
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "\u{e4}, 10.9.9.9"]), Some("10.9.9.9, 10.0.0.1".into()));
        assert_eq!(seen("::ffff:10.0.0.1", &["192.0.2.1"]), Some("192.0.2.1, ::ffff:10.0.0.1".into()));
    }

    /// The headers that remain of a request for `shop.example` with these.
    fn left(trust: Option<&Trust>, peer: &str, names: &[&'static str]) -> HeaderMap {
        let mut request = hyper::Request::get("/").header("host", "shop.example:8443");
        for name in names {
            request = request.header(*name, "claimed");
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        see_to_claims(trust, peer, &mut parts, true);
        parts.headers
    }

    #[test]
    fn what_proxies_say_beside_the_address_is_taken_from_those_that_are_trusted_alone() {
        let names =
            ["forwarded", "x-real-ip", "x-forwarded-host", "x_forwarded_proto", "x-forwarded-for", "x-app"];
        let claimed = |trust: Option<&Trust>, peer: &str| {
            left(trust, peer, &names).values().filter(|value| *value == "claimed").count()
        };
        let networks = Trust::Networks(vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(claimed(None, "10.0.0.1"), 2);
        assert_eq!(claimed(Some(&networks), "192.0.2.1"), 2);
        assert_eq!(claimed(Some(&networks), "10.0.0.1"), names.len());
        assert_eq!(claimed(Some(&Trust::Hops(1)), "192.0.2.1"), names.len());
    }

    #[test]
    fn the_gateway_says_by_what_it_was_asked_where_no_proxy_does() {
        let said = |headers: &HeaderMap| {
            [FORWARDED_PROTO, FORWARDED_HOST].map(|name| headers.get(name)?.to_str().ok().map(str::to_owned))
        };
        let own = [Some("https".to_owned()), Some("shop.example:8443".to_owned())];
        assert_eq!(said(&left(None, "10.0.0.1", &[])), own);
        assert_eq!(said(&left(None, "10.0.0.1", &["x-forwarded-proto", "x_forwarded_host"])), own);
        let trust = Trust::Hops(1);
        assert_eq!(said(&left(Some(&trust), "10.0.0.1", &[])), own);
        let headers = left(Some(&trust), "10.0.0.1", &["x_forwarded_proto"]);
        assert_eq!(
            said(&headers),
            [None, own[1].clone()],
            "a service may read it as what the proxy has said"
        );
        let headers = left(Some(&trust), "10.0.0.1", &["x-forwarded-host"]);
        assert_eq!(said(&headers), [own[0].clone(), Some("claimed".into())]);
    }

    #[test]
    fn the_address_that_proxies_name_is_told_from_who_asks_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-proto", "https"),
            ("x_forwarded_host", "shop.example"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-real-ip", "192.0.2.1"),
            ("forwarded", "For=\"[2001:db8::1]:80\"; proto=https;BY=_x , host=a.example;for=b,"),
            ("host", "s"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut said: Vec<_> = claimed_address(&headers)
            .map(|(name, said)| (name.as_str(), str::from_utf8(said).unwrap()))
            .collect();
        said.sort_unstable();
        assert_eq!(
            said,
            [
                ("forwarded", "host=a.example"),
                ("forwarded", "proto=https"),
                ("x-forwarded-proto", "https"),
                ("x_forwarded_host", "shop.example"),
            ]
        );
    }

    #[test]
    fn a_number_of_hops_is_trusted_whatever_their_addresses() {
        let seen = |hops: usize, given: &[&str]| origin(&Trust::Hops(hops), "203.0.113.9", given);
        assert_eq!(seen(1, &["6.6.6.6, 192.0.2.1"]), Some("192.0.2.1, 203.0.113.9".into()));
        assert_eq!(seen(2, &["6.6.6.6, 192.0.2.1, 7.7.7.7"]), Some("192.0.2.1, 7.7.7.7, 203.0.113.9".into()));
        assert_eq!(seen(9, &["192.0.2.1"]), Some("192.0.2.1, 203.0.113.9".into()));
    }
}
