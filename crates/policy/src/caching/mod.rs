//! RFC 9111 for a single answer, as functions of heads and times: whether it may be stored, how long it is
//! fresh, whether it answers a request, and which part of it.
//!
//! Not taken from a crate: `http-cache-semantics` (3.0) implements RFC 7234, splits Cache-Control at commas
//! inside quoted strings, compares directives case-sensitively, and supports neither RFC 5861 nor RFC 9213;
//! it keeps a copy of every head and parses it again at each hit. Here a head is parsed once, when it is
//! stored, and a hit compares integers.
//!
//! This module stores no answers; the gateway does. Times are nanoseconds of a monotonic clock, except for
//! dates in headers, which are seconds since 1970.

pub mod directives;
pub mod freshness;
pub mod purges;
pub mod range;
pub mod validators;
pub mod vary;

/// Split a list-based field at commas outside quoted strings (RFC 9110, section 5.6.1). Empty members are
/// skipped; an unclosed string ends with the line.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        loop {
            let line = rest?;
            let (mut quoted, mut escaped) = (false, false);
            let end = line.iter().position(|byte| {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b',' => return !quoted,
                    _ => {}
                }
                false
            });
            let member = match end {
                Some(end) => {
                    rest = Some(&line[end + 1..]);
                    &line[..end]
                }
                None => {
                    rest = None;
                    line
                }
            };
            let member = member.trim_ascii();
            if !member.is_empty() {
                return Some(member);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_quoted_string_is_no_end_of_a_member() {
        let found: Vec<_> = members(br#" a="x, y\", z" ,, b , c="#).collect();
        assert_eq!(found, [&br#"a="x, y\", z""#[..], b"b", b"c="]);
    }
}
