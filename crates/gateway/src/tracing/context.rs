//! W3C Trace Context of a request, and the sampling decision.
//!
//! Head sampling is by trace id: components that sample the same ratio keep the same traces, so the spans of
//! a trace stay together. The client's sampled flag is ignored; otherwise clients would decide how much this
//! gateway's operators store.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request's position in its trace.
#[derive(Clone)]
pub struct Context {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// The caller's span, if it sent one.
    pub parent_id: Option<[u8; 8]>,
    pub sampled: bool,
}

impl Context {
    /// Continue the trace that a request names, or start one. `threshold`: the ratio of traces to sample,
    /// times 2^56.
    pub fn of(headers: &HeaderMap, threshold: u64) -> Self {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        // Several headers are ambiguous.
        let given = lines.next().filter(|_| lines.next().is_none()).and_then(|value| parse(value.as_bytes()));
        let (trace_id, parent_id) = match given {
            Some((trace_id, parent_id)) => (trace_id, Some(parent_id)),
            None => ((u128::from(random()) << 64 | u128::from(random())).to_be_bytes(), None),
        };
        // The last seven bytes are random even if the others aren't (W3C Trace Context Level 2).
        let mut share = [0; 8];
        share[1..].copy_from_slice(&trace_id[9..]);
        let sampled = u64::from_be_bytes(share) < threshold;
        Self { trace_id, span_id: random().to_be_bytes(), parent_id, sampled }
    }

    /// The `traceparent` for the instance: its spans are children of this one.
    pub fn header(&self) -> HeaderValue {
        let mut text = Vec::with_capacity(55);
        text.extend_from_slice(b"00-");
        hex(&mut text, &self.trace_id);
        text.push(b'-');
        hex(&mut text, &self.span_id);
        text.extend_from_slice(if self.sampled { b"-01" } else { b"-00" });
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// The trace id as text, for logs.
    pub fn trace_id(&self) -> String {
        text(&self.trace_id)
    }
}

/// Bytes as hex digits.
pub fn text(bytes: &[u8]) -> String {
    let mut digits = Vec::with_capacity(bytes.len() * 2);
    hex(&mut digits, bytes);
    digits.into_iter().map(char::from).collect()
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    out.extend(bytes.iter().flat_map(digits));
}

/// Parse `VERSION-TRACE-SPAN-FLAGS` into trace id and span id. Any version but ff is accepted; versions after
/// 00 may have further fields. Ids of only zeros are invalid.
fn parse(given: &[u8]) -> Option<([u8; 16], [u8; 8])> {
    let hyphens = [2, 35, 52].iter().all(|place| given.get(*place) == Some(&b'-'));
    let version = bytes::<1>(given.get(..2)?)?;
    let length =
        if version == [0] { given.len() == 55 } else { given.len() == 55 || given.get(55) == Some(&b'-') };
    if !hyphens || !length || version == [0xff] {
        return None;
    }
    bytes::<1>(given.get(53..55)?)?;
    let (trace_id, span_id) = (bytes(&given[3..35])?, bytes(&given[36..52])?);
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, span_id))
}

fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    (digits.len() == N * 2).then_some(out)
}

/// Ids have to be unique, not secret: xorshift64* (Vigna, 2016), seeded randomly in each thread.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(()) | 1);
    }
    let mut state = STATE.get();
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    STATE.set(state);
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(given: &str, threshold: u64) -> Context {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_str(given).unwrap());
        Context::of(&headers, threshold)
    }

    #[test]
    fn a_trace_goes_on_and_the_instance_is_below_the_gateway() {
        let context = of(GIVEN, 0);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(text(&context.parent_id.unwrap()), "00f067aa0ba902b7");
        let below = of(context.header().to_str().unwrap(), 0);
        assert_eq!((below.trace_id, below.parent_id), (context.trace_id, Some(context.span_id)));
    }

    #[test]
    fn what_is_no_traceparent_begins_a_trace() {
        let longer = format!("{GIVEN}-more");
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            &longer,
        ] {
            assert_eq!(of(wrong, 0).parent_id, None, "{wrong}");
        }
        let mut twice = HeaderMap::new();
        for _ in 0..2 {
            twice.append(TRACEPARENT, HeaderValue::from_static(GIVEN));
        }
        assert_eq!(Context::of(&twice, 0).parent_id, None);
        assert!(of(&longer.replacen("00", "01", 1), 0).parent_id.is_some(), "a later version may be longer");
    }

    #[test]
    fn the_share_that_is_sampled_is_the_one_asked_for() {
        let none = HeaderMap::new();
        for (threshold, share) in [(0, 0.0), (1 << 56, 1.0), ((1 << 56) / 10, 0.1)] {
            let sampled = (0..20_000).filter(|_| Context::of(&none, threshold).sampled).count();
            assert!((sampled as f64 / 20_000.0 - share).abs() < 0.02, "{sampled} of 20,000 for {share}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_be_sent(given in "\\PC{0,70}") {
            if let Ok(value) = HeaderValue::from_str(&given) {
                parse(value.as_bytes());
            }
        }
    }
}
