//! Parses `Cache-Control` of requests and answers (RFC 9111, section 5.2; RFC 5861) and `CDN-Cache-Control`
//! (RFC 9213) into numbers and flags.

use super::members;

/// Larger numbers of seconds are capped to this (RFC 9111, section 1.2.2).
const SECONDS_LIMIT: u64 = 1 << 31;

/// What a directive applies to: nothing, some header fields, or the whole answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Applies {
    #[default]
    No,
    /// Lower-case names.
    Fields(Vec<String>),
    Whole,
}

/// An answer's directives on storing and reuse. Durations are in seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    pub no_store: bool,
    pub no_cache: Applies,
    pub private: Applies,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
}

/// A request's directives for caches. Durations are in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
    /// `u64::MAX` accepts a stale answer of any age.
    pub max_stale: Option<u64>,
}

impl RequestDirectives {
    /// Parse the lines of `Cache-Control`; without any, `Pragma: no-cache` counts as `no-cache`. A value that
    /// isn't a number of seconds is ignored.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>, pragma: Option<&[u8]>) -> Self {
        let mut found = Self::default();
        let mut given = false;
        for (name, value) in lines.into_iter().flat_map(members).map(directive) {
            given = true;
            let number = value.and_then(seconds);
            match &*name {
                "no-store" => found.no_store = true,
                "no-cache" => found.no_cache = true,
                "only-if-cached" => found.only_if_cached = true,
                "max-age" => found.max_age = smaller(found.max_age, number),
                "min-fresh" => found.min_fresh = found.min_fresh.max(number),
                "max-stale" => {
                    let number = if value.is_none() { Some(u64::MAX) } else { number };
                    found.max_stale = smaller(found.max_stale, number);
                }
                _ => {}
            }
        }
        let pragma = || members(pragma?).find(|member| member.eq_ignore_ascii_case(b"no-cache"));
        found.no_cache |= !given && pragma().is_some();
        found
    }
}

impl ResponseDirectives {
    /// Parse the lines of `Cache-Control`. An age that isn't a number, or that is given twice with different
    /// values, counts as 0: such an answer is better revalidated (RFC 9111, section 4.2.1).
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut found = Self::default();
        for (name, value) in lines.into_iter().flat_map(members).map(directive) {
            found.take(&name, value);
        }
        found
    }

    /// Parse the lines of a targeted field such as `CDN-Cache-Control`, which overrides `Cache-Control` and
    /// `Expires`; `None` if it is empty, or not a dictionary of structured fields (RFC 8941, section 3.2; RFC
    /// 9213, section 2.1).
    pub fn targeted<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut found: Option<Self> = None;
        for member in lines.into_iter().flat_map(members) {
            let bare = member.split(|byte| *byte == b';').next().unwrap_or_default();
            let (name, value) = match bare.iter().position(|byte| *byte == b'=') {
                Some(end) => (&bare[..end], Some(&bare[end + 1..])),
                None => (bare, None),
            };
            let is_key = name.first().is_some_and(|first| first.is_ascii_lowercase() || *first == b'*')
                && name.iter().all(|byte| byte.is_ascii_lowercase() || b"0123456789_-.*".contains(byte));
            let value = match value {
                None | Some(b"?1") => None,
                Some(value) if seconds(value).is_some() || value.first() == Some(&b'"') => Some(value),
                Some(b"?0") => continue,
                Some(_) => return None,
            };
            if !is_key {
                return None;
            }
            found.get_or_insert_default().take(&String::from_utf8_lossy(name), value);
        }
        found
    }

    fn take(&mut self, name: &str, value: Option<&[u8]>) {
        let age = |known: Option<u64>| {
            let number = value.and_then(seconds).unwrap_or(0);
            Some(if known.is_none_or(|known| known == number) { number } else { 0 })
        };
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache.add(value),
            "private" => self.private.add(value),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "max-age" => self.max_age = age(self.max_age),
            "s-maxage" => self.s_maxage = age(self.s_maxage),
            "stale-while-revalidate" => self.stale_while_revalidate = age(self.stale_while_revalidate),
            "stale-if-error" => self.stale_if_error = age(self.stale_if_error),
            _ => {}
        }
    }
}

impl Applies {
    fn add(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else {
            *self = Self::Whole;
            return;
        };
        let mut names = match std::mem::take(self) {
            Self::Whole => {
                *self = Self::Whole;
                return;
            }
            Self::Fields(names) => names,
            Self::No => Vec::new(),
        };
        names.extend(
            members(unquoted(value)).map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase()),
        );
        // An empty list can only be a mistake; the conservative reading is the whole answer.
        *self = if names.is_empty() { Self::Whole } else { Self::Fields(names) };
    }
}

/// The name in lower case, and the value if there is one. Whitespace around the `=` violates the grammar; it
/// stays in the value, which then isn't a number.
fn directive(member: &[u8]) -> (String, Option<&[u8]>) {
    let end = member.iter().position(|byte| *byte == b'=');
    let name = String::from_utf8_lossy(&member[..end.unwrap_or(member.len())]).to_ascii_lowercase();
    match end {
        Some(_) if name.ends_with([' ', '\t']) => (name.trim().to_owned(), Some(b"")),
        Some(end) => (name, Some(&member[end + 1..])),
        None => (name, None),
    }
}

/// Only digits, quoted or not.
fn seconds(value: &[u8]) -> Option<u64> {
    let digits = unquoted(value);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |sum, digit| {
        sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')).min(SECONDS_LIMIT)
    });
    Some(number)
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

fn smaller(known: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (known, other) {
        (Some(known), Some(other)) => Some(known.min(other)),
        (known, other) => known.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(lines: &[&str]) -> ResponseDirectives {
        ResponseDirectives::parse(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn what_is_written_like_a_directive_inside_of_a_string_is_none() {
        let found = parsed(&[r#"extension="max-age=3600, no-store", MAX-AGE=1"#]);
        assert_eq!((found.max_age, found.no_store), (Some(1), false));
    }

    #[test]
    fn an_age_that_is_no_number_or_given_twice_counts_as_zero() {
        for line in ["max-age='3600'", "max-age=-1", "max-age=3600.0", "max-age", "max-age=1, max-age=2"] {
            assert_eq!(parsed(&[line]).max_age, Some(0), "{line}");
        }
        assert_eq!(parsed(&["max-age=5", "max-age=5"]).max_age, Some(5));
        assert_eq!(parsed(&["max-age=\"5\""]).max_age, Some(5));
        assert_eq!(parsed(&["max-age =5"]).max_age, Some(0));
        assert_eq!(parsed(&["max-age=99999999999999999999999"]).max_age, Some(SECONDS_LIMIT));
    }

    #[test]
    fn private_and_no_cache_may_be_about_fields_alone() {
        let found = parsed(&[r#"private="Set-Cookie, x-a", no-cache="X-B""#]);
        assert_eq!(found.private, Applies::Fields(vec!["set-cookie".into(), "x-a".into()]));
        assert_eq!(found.no_cache, Applies::Fields(vec!["x-b".into()]));
        assert_eq!(parsed(&[r#"private="x-a", private"#]).private, Applies::Whole);
        assert_eq!(parsed(&[r#"private, private="x-a""#]).private, Applies::Whole);
        assert_eq!(parsed(&[r#"private="""#]).private, Applies::Whole);
    }

    #[test]
    fn pragma_counts_where_cache_control_is_missing() {
        let parse =
            |lines: &[&'static [u8]], pragma| RequestDirectives::parse(lines.to_vec(), pragma).no_cache;
        assert!(parse(&[], Some(b"x, No-Cache")));
        assert!(!parse(&[b"max-age=5"], Some(b"no-cache")));
        assert!(!parse(&[], Some(b"other")));
    }

    #[test]
    fn a_targeted_field_that_is_no_dictionary_is_ignored_as_a_whole() {
        let parse = |line: &'static str| ResponseDirectives::targeted([line.as_bytes()]);
        assert_eq!(parse("max-age=60").and_then(|found| found.max_age), Some(60));
        assert_eq!(parse("max-age=60;a=1, no-store").map(|found| found.no_store), Some(true));
        assert_eq!(parse("no-store=?0, max-age=1").map(|found| found.no_store), Some(false));
        for line in ["", "Max-Age=60", "max-age=a b", "=5"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic_and_numbers_are_bounded(
            lines in prop::collection::vec(r#"(max-age|s-maxage|no-cache|private|[a-z\\",= ]{0,3})=?[0-9"\\, a-z]{0,24}"#, 0..4),
        ) {
            let lines = || lines.iter().map(|line| line.as_bytes());
            let found = ResponseDirectives::parse(lines());
            prop_assert!(found.max_age.is_none_or(|age| age <= SECONDS_LIMIT));
            RequestDirectives::parse(lines(), None);
            ResponseDirectives::targeted(lines());
        }

        #[test]
        fn the_order_of_directives_and_their_lines_do_not_matter(
            order in Just(vec!["public", "max-age=60", "no-cache=\"a\"", "s-maxage=\"9\"", "NO-STORE"]).prop_shuffle(),
            split in 0usize..5,
        ) {
            let lines = [order[..split].join(","), order[split..].join(" , ")];
            let found = ResponseDirectives::parse(lines.iter().map(|line| line.as_bytes()));
            prop_assert_eq!(found, ResponseDirectives {
                public: true, no_store: true, max_age: Some(60), s_maxage: Some(9),
                no_cache: Applies::Fields(vec!["a".into()]), ..Default::default()
            });
        }
    }
}
