//! Content negotiation: chooses the coding of an answer from what the client accepts (`Accept-Encoding`, RFC
//! 9110, section 12.5.3) and what is offered.
//!
//! Every client can read an uncoded answer, so missing, malformed or contradictory values count against a
//! coding. A coding is used only on request: formally a client without the field accepts any, but in practice
//! such clients read none.

/// A content coding of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstandard,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    pub const ALL: [Self; 3] = [Self::Zstandard, Self::Brotli, Self::Gzip];

    /// The name in HTTP.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstandard => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The coding with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|coding| coding.name() == name)
    }

    fn is(self, token: &[u8]) -> bool {
        token.eq_ignore_ascii_case(self.name().as_bytes())
            || (self == Self::Gzip && token.eq_ignore_ascii_case(b"x-gzip"))
    }
}

/// The best of the `offered` codings for a client with these lines of `Accept-Encoding`: the one with the
/// highest weight, and among equals the first offered. `None` if the client accepts no coding or prefers none
/// (`identity`).
pub fn choose<'a>(lines: impl IntoIterator<Item = &'a [u8]>, offered: &[Coding]) -> Option<Coding> {
    let mut weights = [None; Coding::ALL.len()];
    let (mut others, mut identity) = (None, None);
    for member in lines.into_iter().flat_map(|line| line.split(|byte| *byte == b',')) {
        let mut parts = member.splitn(2, |byte| *byte == b';');
        let token = parts.next().unwrap_or_default().trim_ascii();
        let weight = parts.next().map_or(WHOLE, |weight| thousandths(weight.trim_ascii()).unwrap_or(0));
        let slot = match token {
            b"*" => &mut others,
            token if token.eq_ignore_ascii_case(b"identity") => &mut identity,
            token => match Coding::ALL.iter().position(|coding| coding.is(token)) {
                Some(place) => &mut weights[place],
                None => continue,
            },
        };
        *slot = Some(slot.map_or(weight, |before: u16| before.min(weight)));
    }
    let weight_of = |coding: Coding| {
        let place = Coding::ALL.iter().position(|each| *each == coding);
        place.and_then(|place| weights[place]).or(others).unwrap_or(0)
    };
    let mut best = None;
    for coding in offered {
        let weight = weight_of(*coding);
        if weight > best.map_or(0, |(_, highest)| highest) {
            best = Some((*coding, weight));
        }
    }
    best.filter(|(_, weight)| identity.is_none_or(|identity| identity <= *weight)).map(|(coding, _)| coding)
}

/// The default weight.
const WHOLE: u16 = 1000;

/// A weight (`q=0.5`) in thousandths; `None` if it is malformed (RFC 9110, section 12.4.2).
fn thousandths(text: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), fraction @ ..] = text else { return None };
    let digits = match fraction {
        [] => &[],
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    let mut weight = u16::from(whole - b'0');
    for place in 0..3 {
        let digit = digits.get(place).copied().unwrap_or(b'0');
        weight = weight * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    (weight <= WHOLE).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::Coding::{Brotli, Gzip, Zstandard};
    use super::*;
    use proptest::prelude::*;

    fn chosen(accepted: &str) -> Option<Coding> {
        choose([accepted.as_bytes()], &Coding::ALL)
    }

    #[test]
    fn what_clients_send_is_answered_with_what_they_like_best() {
        for (accepted, coding) in [
            ("gzip, deflate, br, zstd", Some(Zstandard)),
            ("gzip, deflate, br", Some(Brotli)),
            ("gzip, deflate", Some(Gzip)),
            ("X-GZIP", Some(Gzip)),
            ("gzip;q=1.0, br;q=0.9", Some(Gzip)),
            ("gzip ; q=0.5 , br ;Q=0.501", Some(Brotli)),
            ("*", Some(Zstandard)),
            ("*;q=0.1, gzip", Some(Gzip)),
            ("*, zstd;q=0", Some(Brotli)),
            ("identity;q=0", None),
            ("identity;q=0, *;q=0.1", Some(Zstandard)),
            ("identity, gzip;q=0.9", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("deflate, compress", None),
            ("", None),
        ] {
            assert_eq!(chosen(accepted), coding, "{accepted:?}");
        }
        assert_eq!(choose([], &Coding::ALL), None);
        assert_eq!(choose([&b"gzip"[..]], &[]), None);
    }

    #[test]
    fn a_weight_that_is_none_and_a_word_against_another_count_against_a_coding() {
        for weight in ["", "q", "q=", "q=2", "q=1.001", "q=-1", "q=0.0001", "q=.5", "q=0,5", "q=a", "v=1"] {
            assert_eq!(chosen(&format!("gzip;{weight}")), None, "{weight:?}");
        }
        assert_eq!(chosen("gzip, gzip;q=0"), None);
        assert_eq!(chosen("gzip;q=0, gzip"), None);
    }

    proptest! {
        #[test]
        fn the_heaviest_that_is_offered_is_chosen_however_the_field_is_written(
            weights in prop::collection::vec(prop::option::of(0..=1000u16), 5..=5),
            offered in prop::sample::subsequence(Coding::ALL.to_vec(), 0..=3).prop_shuffle(),
            order in Just(vec![0, 1, 2, 3, 4]).prop_shuffle(),
            split in 0..5usize,
            (upper, spaced) in any::<(bool, bool)>(),
        ) {
            let names = ["zstd", "br", "gzip", "*", "identity"];
            let written = |place: &usize| weights[*place].map(|weight| {
                let space = if spaced { " \t" } else { "" };
                let name = names[*place];
                let text = format!("{name}{space};{space}q={}.{:03}", weight / 1000, weight % 1000);
                if upper { text.to_uppercase() } else { text }
            });
            let members: Vec<String> = order.iter().filter_map(written).collect();
            let (first, second) = members.split_at(split.min(members.len()));
            let lines = [first.join(" ,"), second.join(",, ")];
            let found = choose(lines.iter().map(|line| line.as_bytes()), &offered);

            let weight = |coding: &Coding| {
                let place = Coding::ALL.iter().position(|each| each == coding).unwrap();
                weights[place].or(weights[3]).unwrap_or(0)
            };
            let highest = offered.iter().map(weight).max().unwrap_or(0);
            let expected = offered.iter().copied().find(|coding| weight(coding) == highest);
            let expected = expected.filter(|_| highest > 0 && weights[4].is_none_or(|it| it <= highest));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn whatever_comes_a_coding_is_chosen_only_if_it_is_named(
            line in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            if let Some(coding) = choose([&line[..]], &Coding::ALL) {
                let text = String::from_utf8_lossy(&line).to_lowercase();
                prop_assert!(text.contains('*') || text.contains(coding.name()));
            }
        }
    }
}
