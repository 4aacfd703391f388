//! Conditional requests: whether a client already has the stored answer (RFC 9110, sections 8.8 and 13).

use super::members;

/// The validators of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, as it was sent.
    pub entity_tag: Option<Vec<u8>>,
    /// `Last-Modified`, in seconds since 1970.
    pub last_modified_s: Option<u64>,
    /// `Date`, in seconds since 1970; used if there is no `Last-Modified`.
    pub date_s: u64,
}

impl Validators {
    /// Whether the origin can be asked with a condition.
    #[must_use]
    pub fn can_ask(&self) -> bool {
        self.entity_tag.is_some() || self.last_modified_s.is_some()
    }

    /// Whether a client with these preconditions already has the stored answer, and gets a 304: by
    /// `If-None-Match` if present, otherwise by `If-Modified-Since` (in seconds since 1970).
    pub fn not_modified<'a>(
        &self,
        none_match: impl IntoIterator<Item = &'a [u8]>,
        modified_since_s: Option<u64>,
    ) -> bool {
        let mut none_match = none_match.into_iter().peekable();
        if none_match.peek().is_some() {
            return none_match.flat_map(members).any(|each| {
                each == b"*" || self.entity_tag.as_deref().is_some_and(|mine| weakly_equal(each, mine))
            });
        }
        modified_since_s.is_some_and(|since| self.last_modified_s.unwrap_or(self.date_s) <= since)
    }

    /// Whether a range requested with this `If-Range` applies to the stored answer: an entity tag must match
    /// strongly; a date must equal Last-Modified, which must be at least a second before the answer's date
    /// (RFC 9110, section 8.8.2.2).
    #[must_use]
    pub fn in_range_of(&self, if_range: &[u8], date_s: Option<u64>) -> bool {
        match date_s {
            Some(date) => self.last_modified_s == Some(date) && date < self.date_s,
            None => self.entity_tag.as_deref().is_some_and(|mine| strongly_equal(if_range, mine)),
        }
    }
}

/// Weak comparison: equivalent, though perhaps not byte for byte.
#[must_use]
pub fn weakly_equal(left: &[u8], right: &[u8]) -> bool {
    opaque(left) == opaque(right)
}

/// Strong comparison: identical byte for byte.
#[must_use]
pub fn strongly_equal(left: &[u8], right: &[u8]) -> bool {
    left == right && left.starts_with(b"\"")
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators(tag: &str, modified: u64, date: u64) -> Validators {
        Validators {
            entity_tag: Some(tag.as_bytes().to_vec()),
            last_modified_s: Some(modified),
            date_s: date,
        }
    }

    #[test]
    fn a_304_compares_weakly_and_a_range_strongly() {
        let weak = validators("W/\"a\"", 5, 10);
        assert!(weak.not_modified([&b"\"x\", \"a\""[..]], None));
        assert!(!weak.in_range_of(b"W/\"a\"", None));
        assert!(validators("\"a\"", 5, 10).in_range_of(b"\"a\"", None));
        assert!(!validators("\"a\"", 5, 10).in_range_of(b"W/\"a\"", None));
    }

    #[test]
    fn an_entity_tag_counts_before_a_date() {
        let stored = validators("\"a\"", 5, 10);
        assert!(!stored.not_modified([&b"\"b\""[..]], Some(100)));
        assert!(stored.not_modified([], Some(5)));
        assert!(!stored.not_modified([], Some(4)));
        assert!(stored.not_modified([&b"*"[..]], None));
    }

    #[test]
    fn a_date_that_may_have_seen_two_states_selects_no_range() {
        assert!(validators("\"a\"", 5, 10).in_range_of(b"", Some(5)));
        assert!(!validators("\"a\"", 5, 10).in_range_of(b"", Some(6)));
        assert!(!validators("\"a\"", 10, 10).in_range_of(b"", Some(10)));
    }
}
