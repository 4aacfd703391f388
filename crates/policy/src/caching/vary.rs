//! Secondary cache keys: a stored answer matches a request if the fields named in `Vary` match (RFC 9111,
//! section 4.1).

use super::members;

/// The fields that an answer varies by: lower-case names, deduplicated and sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vary(Vec<String>);

impl Vary {
    /// Parse the lines of `Vary`; `None` for `*`, which no request matches.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut names: Vec<String> = Vec::new();
        for member in lines.into_iter().flat_map(members) {
            if member == b"*" {
                return None;
            }
            names.push(String::from_utf8_lossy(member).to_ascii_lowercase());
        }
        names.sort_unstable();
        names.dedup();
        Some(Self(names))
    }

    /// The field names, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The selecting field values in one string; `find` returns the lines of a field. Requests with equal
    /// strings get the same answer.
    ///
    /// Lines are joined. In fields of content negotiation case and order of the members don't count: each has
    /// its own weight (RFC 9110, section 12.4).
    pub fn selecting<'a, F, L>(&self, find: F) -> Box<[u8]>
    where
        F: Fn(&str) -> L,
        L: IntoIterator<Item = &'a [u8]>,
    {
        let mut out = Vec::new();
        for name in &self.0 {
            let lines: Vec<&[u8]> = find(name).into_iter().map(<[u8]>::trim_ascii).collect();
            let value = match &**name {
                _ if lines.is_empty() => None,
                "accept" | "accept-charset" | "accept-encoding" | "accept-language" => {
                    Some(negotiated(&lines))
                }
                _ => Some(lines.join(&b", "[..])),
            };
            // Each value is prefixed by its length, so that values can't run into each other.
            let length = value.as_ref().map_or(u32::MAX, |value| value.len() as u32);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&value.unwrap_or_default());
        }
        out.into()
    }
}

fn negotiated(lines: &[&[u8]]) -> Vec<u8> {
    let mut found: Vec<Vec<u8>> = lines
        .iter()
        .flat_map(|line| members(line))
        .map(|member| {
            member.iter().filter(|byte| !byte.is_ascii_whitespace()).map(u8::to_ascii_lowercase).collect()
        })
        .collect();
    found.sort_unstable();
    found.join(&b","[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Fields = Vec<(&'static str, String)>;

    fn vary(names: &str) -> Vary {
        Vary::parse([names.as_bytes()]).unwrap()
    }

    fn selecting(vary: &Vary, fields: &Fields) -> Box<[u8]> {
        vary.selecting(|name| {
            fields.iter().filter(|(each, _)| *each == name).map(|(_, v)| v.as_bytes()).collect::<Vec<_>>()
        })
    }

    #[test]
    fn a_star_anywhere_matches_nothing() {
        for lines in [&["*"][..], &["a, *"], &["a", " * "], &[",*"]] {
            assert_eq!(Vary::parse(lines.iter().map(|line| line.as_bytes())), None);
        }
    }

    #[test]
    fn a_missing_field_is_not_an_empty_one() {
        let fields = |value: &str| vec![("x", value.to_owned())];
        assert_ne!(selecting(&vary("x"), &vec![]), selecting(&vary("x"), &fields("")));
    }

    proptest! {
        #[test]
        fn fields_that_differ_select_differently_and_the_others_do_not_count(
            left in prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), "[xy,]{0,3}"), 0..4),
            right in prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), "[xy,]{0,3}"), 0..4),
        ) {
            let vary = vary("B, a, A");
            let seen = |fields: &Fields| ["a", "b"].map(|name| {
                let lines: Vec<_> =
                    fields.iter().filter(|(each, _)| *each == name).map(|(_, v)| v.clone()).collect();
                (!lines.is_empty()).then(|| lines.join(", "))
            });
            prop_assert_eq!(selecting(&vary, &left) == selecting(&vary, &right), seen(&left) == seen(&right));
        }

        #[test]
        fn the_order_of_what_is_accepted_does_not_count(
            order in Just(vec!["de", "EN;q=0.5", "fr; q=0.1"]).prop_shuffle(), split in 0usize..3,
        ) {
            let vary = vary("Accept-Language");
            let mut fields = vec![("accept-language", order[split..].join(" , "))];
            if split > 0 { fields.push(("accept-language", order[..split].join(","))); }
            let same = vec![("accept-language", "de,en;q=0.5,fr;q=0.1".to_owned())];
            prop_assert_eq!(selecting(&vary, &fields), selecting(&vary, &same));
        }
    }
}
