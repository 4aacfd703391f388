//! The target of a redirect (`Location`, RFC 9110, section 10.2.2).
//!
//! The configuration sets scheme, host and the beginning of the path; a client controls at most what follows.
//! Its part is encoded so that it can end neither the URL nor the header line, and a reference without a host
//! begins with exactly one slash: browsers read `//evil.example` and `/\evil.example` as other hosts.

use crate::rewrite::{Prefix, encoded};

/// The part before the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Empty: the same scheme and host.
    Same,
    /// This scheme, and the requested host without its port.
    Scheme(Box<str>),
    /// This scheme and host, `https://www.shop.example`.
    Host(Box<str>),
}

/// The path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// As requested.
    Kept,
    /// With its prefix replaced.
    Prefix(Prefix),
    /// A fixed plain path (`rewrite::is_plain`).
    Whole(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub place: Place,
    pub path: Path,
    /// Whether the query is kept.
    pub query: bool,
}

impl Target {
    /// The location for a request for `path` at `host` (without a port). `None` if the host is invalid, or
    /// the path doesn't have the prefix to replace.
    pub fn location(&self, host: &str, path: &str, query: Option<&str>) -> Option<String> {
        let mut location = match &self.place {
            Place::Same => String::new(),
            Place::Scheme(scheme) if is_host(host) => format!("{scheme}://{}", host.to_ascii_lowercase()),
            Place::Scheme(_) => return None,
            Place::Host(place) => place.to_string(),
        };
        let path = match &self.path {
            Path::Kept => path.to_owned(),
            Path::Prefix(prefix) => prefix.replaced(path)?,
            Path::Whole(path) => path.to_string(),
        };
        location.push('/');
        location.push_str(&encoded(path.trim_start_matches(['/', '\\'])));
        if let Some(query) = query.filter(|_| self.query) {
            location.push('?');
            location.push_str(&encoded(query));
        }
        Some(location)
    }
}

/// Whether a text is exactly a host name or address.
pub fn is_host(text: &str) -> bool {
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            text.split('.').all(|label| !label.is_empty() && label.bytes().all(letter))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(place: Place, path: Path) -> Target {
        Target { place, path, query: true }
    }

    fn prefix(from: &str, to: &str) -> Path {
        Path::Prefix(Prefix::new(from, to).unwrap())
    }

    #[test]
    fn a_request_is_led_to_another_scheme_host_or_path_with_what_is_to_stay() {
        let www = || Place::Host("https://www.shop.example".into());
        for (target, wanted) in [
            (target(www(), Path::Kept), "https://www.shop.example/a/b?c=d"),
            (target(Place::Scheme("https".into()), Path::Kept), "https://shop.example/a/b?c=d"),
            (target(Place::Same, prefix("/a", "/new")), "/new/b?c=d"),
            (target(www(), prefix("/a", "/")), "https://www.shop.example/b?c=d"),
            (target(Place::Same, Path::Whole("/".into())), "/?c=d"),
            (Target { query: false, ..target(Place::Same, Path::Whole("/x/y".into())) }, "/x/y"),
        ] {
            assert_eq!(target.location("Shop.example", "/a/b", Some("c=d")).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn no_path_and_no_host_lead_elsewhere() {
        let kept = target(Place::Same, Path::Kept);
        let to = |target: &Target, host: &str, path: &str| target.location(host, path, None);
        for path in
            ["//evil.example", "/\\evil.example", "/\\/evil.example", "\\\\evil.example", "///evil.example"]
        {
            assert_eq!(to(&kept, "h", path).as_deref(), Some("/evil.example"), "{path}");
        }
        let stripped = target(Place::Same, prefix("/old", "/"));
        assert_eq!(to(&stripped, "h", "/old//evil.example").as_deref(), Some("/evil.example"));
        assert_eq!(to(&stripped, "h", "/old/\\evil.example").as_deref(), Some("/evil.example"));
        let host = target(Place::Host("https://shop.example".into()), Path::Kept);
        assert_eq!(to(&host, "h", ".evil.example").as_deref(), Some("https://shop.example/.evil.example"));
        assert_eq!(to(&host, "h", "@evil.example").as_deref(), Some("https://shop.example/@evil.example"));
        let scheme = target(Place::Scheme("https".into()), Path::Kept);
        for wrong in ["", "evil.example/.shop.example", "a@b", "a b", "a:1", "a..b", "[x]", "a\r\nb"] {
            assert_eq!(to(&scheme, wrong, "/"), None, "{wrong:?}");
        }
        assert_eq!(to(&scheme, "[::1]", "/").as_deref(), Some("https://[::1]/"));
    }

    proptest! {
        #[test]
        fn wherever_it_leads_is_where_the_configuration_says(
            path in "[/\\\\]{0,3}\\PC{0,8}", query in prop::option::of("\\PC{0,8}[\\r\\n]{0,2}"),
        ) {
            let same = target(Place::Same, Path::Kept).location("h", &path, query.as_deref()).unwrap();
            prop_assert!(same.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(same.starts_with('/') && !same[1..].starts_with(['/', '\\']), "{}", same);
            let host = target(Place::Host("https://shop.example".into()), Path::Kept);
            let elsewhere = host.location("h", &path, query.as_deref()).unwrap();
            prop_assert_eq!(elsewhere.strip_prefix("https://shop.example"), Some(&*same));
        }
    }
}
