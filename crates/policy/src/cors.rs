//! CORS rules according to the Fetch standard (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Browsers serialize an origin in exactly one way (`scheme://host[:port]`, in lower case, without the
//! scheme's default port), so origins are compared byte by byte and never parsed: a parser can be misled. For
//! a wildcard pattern, the part in place of the `*` may only contain characters of host names, so that
//! `https://evil.example/.shop.example` doesn't match.
//!
//! `null`, which any page can send from a sandboxed frame, can't be configured as an origin; only `*` allows
//! it, with all others.

/// The origins that may read answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Origins {
    everybody: bool,
    /// Sorted.
    exact: Box<[Box<str>]>,
    below: Box<[Below]>,
}

/// Every name below a domain, such as `https://*.shop.example:8443`.
#[derive(Debug, PartialEq, Eq)]
struct Below {
    /// `https://`
    beginning: Box<str>,
    /// `.shop.example:8443`
    end: Box<str>,
}

impl Origins {
    /// Parse patterns: `*`, `https://shop.example` and `https://*.shop.example`.
    ///
    /// # Errors
    /// The first pattern that no browser would send, or that covers more than one domain.
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let (mut everybody, mut exact, mut below) = (false, Vec::new(), Vec::new());
        for pattern in patterns {
            let (scheme, authority) = match pattern.split_once("://") {
                _ if pattern == "*" => {
                    everybody = true;
                    continue;
                }
                Some(parts) if is_scheme(parts.0) => parts,
                _ => return Err(pattern),
            };
            let Some((host, port)) = host_and_port(scheme, authority) else { return Err(pattern) };
            match host.strip_prefix("*.") {
                Some(domain) if is_domain(domain) => below.push(Below {
                    beginning: format!("{scheme}://").into(),
                    end: format!(".{domain}{port}").into(),
                }),
                None if is_host(host) => exact.push(Box::from(pattern)),
                _ => return Err(pattern),
            }
        }
        exact.sort_unstable();
        Ok(Self { everybody, exact: exact.into(), below: below.into() })
    }

    /// Whether every origin is allowed, so that answers don't depend on it.
    pub fn is_everybody(&self) -> bool {
        self.everybody
    }

    /// Whether an `Origin` header's value is allowed.
    pub fn allow(&self, origin: &str) -> bool {
        self.everybody
            || self.exact.binary_search_by(|each| (**each).cmp(origin)).is_ok()
            || self.below.iter().any(|below| {
                let name =
                    origin.strip_prefix(&*below.beginning).and_then(|rest| rest.strip_suffix(&*below.end));
                name.is_some_and(is_name)
            })
    }
}

/// A preflight: a browser's question before a request that an old server would not expect.
#[derive(Debug, Clone, Copy)]
pub struct Preflight<'a> {
    pub origin: &'a str,
    pub method: &'a str,
    /// The lines of `Access-Control-Request-Headers`, joined by commas.
    pub headers: &'a str,
}

impl<'a> Preflight<'a> {
    /// The names of the actual request's headers.
    pub fn header_names(&self) -> impl Iterator<Item = &'a str> {
        self.headers.split(',').map(|name| name.trim_matches([' ', '\t'])).filter(|name| !name.is_empty())
    }
}

/// The part of a preflight that isn't allowed.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    Origin,
    Method,
    Header(&'a str),
}

/// The rules of one route.
#[derive(Debug)]
pub struct Rules {
    pub origins: Origins,
    pub methods: Vec<String>,
    /// In lower case. `*` allows every header but `authorization`, which must be named.
    pub headers: Vec<String>,
}

impl Rules {
    /// # Errors
    /// The first part that isn't allowed.
    pub fn grant<'a>(&self, asked: &Preflight<'a>) -> Result<(), Refused<'a>> {
        if !self.origins.allow(asked.origin) {
            return Err(Refused::Origin);
        }
        if !self.methods.iter().any(|method| method == asked.method) {
            return Err(Refused::Method);
        }
        let granted = |name: &str| {
            let is = |each: &String| match each.as_str() {
                "*" => !name.eq_ignore_ascii_case("authorization"),
                each => each.eq_ignore_ascii_case(name),
            };
            self.headers.iter().any(is)
        };
        asked.header_names().find(|name| !granted(name)).map_or(Ok(()), |name| Err(Refused::Header(name)))
    }
}

fn is_scheme(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_lowercase()) && text.bytes().all(rest)
}

/// Host and `:port`, if the port is written as browsers do: a number, and not the scheme's default.
fn host_and_port<'a>(scheme: &str, authority: &'a str) -> Option<(&'a str, &'a str)> {
    // An IPv6 address has colons within brackets.
    let colon = authority.rfind(':').filter(|colon| *colon > authority.rfind(']').unwrap_or(0));
    let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
    let own = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let number = port.strip_prefix(':').map(|digits| (digits, digits.parse::<u16>()));
    match number {
        None => Some((host, port)),
        Some((digits, Ok(number))) if number.to_string() == digits && port != own => Some((host, port)),
        Some(_) => None,
    }
}

fn is_host(text: &str) -> bool {
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match address {
        Some(address) => {
            address.parse::<std::net::Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address)
        }
        None => is_name(text),
    }
}

/// A domain with an owner: not an address, and no top-level domain except `localhost`.
fn is_domain(text: &str) -> bool {
    let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    is_name(text) && !numeric && (text.contains('.') || text == "localhost")
}

/// Lower-case labels separated by dots.
fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(letter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origins(patterns: &[&str]) -> Origins {
        Origins::parse(patterns.iter().copied()).unwrap()
    }

    #[test]
    fn only_what_a_browser_sends_can_be_an_origin() {
        for wrong in [
            "",
            "null",
            "shop.example",
            "https://",
            "https://Shop.example",
            "HTTPS://shop.example",
            "https://shop.example/",
            "https://shop.example:443",
            "http://shop.example:80",
            "https://shop.example:08443",
            "https://shop.example:",
            "https://shop.example:70000",
            "https://user@shop.example",
            "https://*",
            "https://*.example",
            "https://*.0.0.1",
            "https://*shop.example",
            "https://a.*.example",
            "https://[::1",
            "https://[0:0::1]",
            "*://shop.example",
        ] {
            assert_eq!(Origins::parse([wrong]), Err(wrong));
        }
        for right in [
            "*",
            "https://shop.example",
            "http://localhost:3000",
            "http://*.localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "https://*.shop.example:8443",
            "capacitor://localhost",
            "chrome-extension://abcdef",
        ] {
            assert!(Origins::parse([right]).is_ok(), "{right}");
        }
    }

    #[test]
    fn an_origin_is_one_of_those_or_lies_below_a_domain_of_theirs() {
        let few = origins(&["https://shop.example", "https://*.shop.example", "http://*.test.example:81"]);
        for (origin, allowed) in [
            ("https://shop.example", true),
            ("https://a.shop.example", true),
            ("https://a.b.shop.example", true),
            ("http://a.test.example:81", true),
            ("http://test.example:81", false),
            ("http://a.test.example", false),
            ("http://shop.example", false),
            ("https://shop.example:8443", false),
            ("https://evilshop.example", false),
            ("https://shop.example.evil.example", false),
            ("https://evil.example/.shop.example", false),
            ("https://evil.example#.shop.example", false),
            ("https://evil.example:1.shop.example", false),
            ("https://user@a.shop.example", false),
            ("https://..shop.example", false),
            ("https://.shop.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(few.allow(origin), allowed, "{origin}");
        }
        assert!(origins(&["*"]).allow("null"));
        assert!(!origins(&[]).allow("null"));
    }

    #[test]
    fn a_preflight_is_told_the_first_thing_that_it_may_not_have() {
        let rules = |headers: &[&str]| Rules {
            origins: origins(&["https://shop.example"]),
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            headers: headers.iter().map(|&each| each.to_owned()).collect(),
        };
        let asked = |origin, method, headers| Preflight { origin, method, headers };
        let few = rules(&["x-a", "content-type"]);
        let ours = "https://shop.example";
        assert_eq!(few.grant(&asked(ours, "PUT", " X-A ,content-type,,")), Ok(()));
        assert_eq!(few.grant(&asked("https://other.example", "PUT", "")), Err(Refused::Origin));
        assert_eq!(few.grant(&asked(ours, "DELETE", "x-b")), Err(Refused::Method));
        assert_eq!(few.grant(&asked(ours, "get", "")), Err(Refused::Method));
        assert_eq!(few.grant(&asked(ours, "GET", "x-a,x-b")), Err(Refused::Header("x-b")));
        let all = rules(&["*"]);
        assert_eq!(all.grant(&asked(ours, "GET", "x-b")), Ok(()));
        assert_eq!(all.grant(&asked(ours, "GET", "Authorization")), Err(Refused::Header("Authorization")));
        assert_eq!(rules(&["*", "authorization"]).grant(&asked(ours, "GET", "Authorization")), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_let_in_below_a_domain_is_a_name_below_it(
            origin in prop_oneof![
                "https://[a-z.:/@#?%\\\\ -]{0,12}\\.shop\\.example",
                "[a-z:/.@\\\\]{0,12}\\.shop\\.example[a-z.:/]{0,4}",
            ],
        ) {
            if origins(&["https://*.shop.example"]).allow(&origin) {
                let host = origin.strip_prefix("https://").unwrap();
                prop_assert!(host.ends_with(".shop.example"));
                prop_assert!(!host.contains(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-' && letter != '.'));
            }
        }

        #[test]
        fn an_origin_that_can_be_configured_lets_in_itself_and_no_other(
            left in "https?://[a-c.:0-9]{1,6}", right in "https?://[a-c.:0-9]{1,6}",
        ) {
            if let Ok(one) = Origins::parse([left.as_str()]) {
                prop_assert!(one.allow(&left));
                prop_assert_eq!(one.allow(&right), left == right);
            }
        }
    }
}
