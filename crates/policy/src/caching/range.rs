//! Single byte ranges of an answer (RFC 9110, section 14).

/// The part of a body that a `Range` header selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// The whole body: the unit is unknown, the field is malformed, or it has several ranges, which a server
    /// may ignore (and should, where many of them would make an answer larger than the whole).
    Whole,
    /// Bytes from `first` to `last`, inclusive.
    Part { first: u64, last: u64 },
    /// Outside the body: 416.
    Unsatisfiable,
}

impl Range {
    /// The part that `field` selects of a body of `length` bytes.
    #[must_use]
    pub fn of(field: &[u8], length: u64) -> Self {
        let Some((unit, spec)) = split(field.trim_ascii(), b'=') else { return Self::Whole };
        if !unit.eq_ignore_ascii_case(b"bytes") || spec.contains(&b',') {
            return Self::Whole;
        }
        let Some((first, last)) = split(spec.trim_ascii(), b'-') else { return Self::Whole };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if last < first => Self::Whole,
            (Some(_), None) if !last.is_empty() => Self::Whole,
            (Some(first), last) if first < length => {
                Self::Part { first, last: last.unwrap_or(u64::MAX).min(length - 1) }
            }
            (None, Some(suffix)) if first.is_empty() && suffix > 0 && length > 0 => {
                Self::Part { first: length.saturating_sub(suffix), last: length - 1 }
            }
            (Some(_), _) => Self::Unsatisfiable,
            (None, Some(_)) if first.is_empty() => Self::Unsatisfiable,
            _ => Self::Whole,
        }
    }
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|byte| *byte == at)?;
    Some((&text[..place], &text[place + 1..]))
}

/// Only digits; saturates if it is too large.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits.iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_forms_of_a_range() {
        assert_eq!(Range::of(b"bytes=2-4", 10), Range::Part { first: 2, last: 4 });
        assert_eq!(Range::of(b"bytes=2-", 10), Range::Part { first: 2, last: 9 });
        assert_eq!(Range::of(b"bytes=-3", 10), Range::Part { first: 7, last: 9 });
        assert_eq!(Range::of(b"bytes=-30", 10), Range::Part { first: 0, last: 9 });
        assert_eq!(Range::of(b"bytes=2-99999999999999999999", 10), Range::Part { first: 2, last: 9 });
    }

    #[test]
    fn what_a_body_does_not_have_is_unsatisfiable_and_what_is_no_range_is_ignored() {
        for field in [&b"bytes=10-"[..], b"bytes=-0", b"bytes=99-100"] {
            assert_eq!(Range::of(field, 10), Range::Unsatisfiable);
        }
        for field in [
            &b"bytes=4-2"[..],
            b"lines=1-2",
            b"bytes",
            b"bytes=a-b",
            b"bytes=1-x",
            b"bytes=1-2,4-5",
            b"bytes=-",
        ] {
            assert_eq!(Range::of(field, 10), Range::Whole, "{}", String::from_utf8_lossy(field));
        }
        assert_eq!(Range::of(b"bytes=0-", 0), Range::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_body(field in "bytes=[0-9]{0,4}-[0-9]{0,4}", length in 0u64..5000) {
            if let Range::Part { first, last } = Range::of(field.as_bytes(), length) {
                prop_assert!(first <= last && last < length);
            }
        }
    }
}
