//! Builds one-line JSON objects, for what is written once per request.
//!
//! The output is byte for byte that of serde_json, which checks each byte of a string on its own. Here a
//! block of bytes is checked in a few instructions (the compiler vectorizes it), and only a string that needs
//! escaping is processed byte by byte. Field names are literals and never escaped.

/// Block size: the smallest vector register.
const BLOCK: usize = 16;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The name of a string field with its punctuation: `text!("path")`.
macro_rules! text {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"")
    };
}
/// The same for a number field.
macro_rules! number {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(crate) use {number, text};

/// An object built field by field; it must have at least one.
pub struct Line(Vec<u8>);

impl Line {
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Add a string field; `field` comes from `text!`.
    pub fn text(&mut self, field: &'static str, text: &str) {
        let Self(out) = self;
        out.extend_from_slice(field.as_bytes());
        if is_plain(text.as_bytes()) {
            out.extend_from_slice(text.as_bytes());
        } else {
            escape(out, text.as_bytes());
        }
        out.push(b'"');
    }

    /// Add a number field; `field` comes from `number!`.
    pub fn number(&mut self, field: &'static str, number: u64) {
        let Self(out) = self;
        out.extend_from_slice(field.as_bytes());
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// The complete object with a newline.
    pub fn finish(self) -> Vec<u8> {
        let Self(mut out) = self;
        // Each field begins with a comma; the first one's becomes the opening brace.
        if let Some(first) = out.first_mut() {
            *first = b'{';
        }
        out.extend_from_slice(b"}\n");
        out
    }
}

/// Whether a byte must be escaped in a string (RFC 8259, section 7).
const fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// Whether a string needs no escaping.
fn is_plain(text: &[u8]) -> bool {
    // No early exit, so that it vectorizes.
    let is_plain = |block: &[u8; BLOCK]| !block.iter().fold(false, |found, byte| found | is_special(*byte));
    let Some(last) = text.last_chunk() else {
        let mut block = [b' '; BLOCK];
        block[..text.len()].copy_from_slice(text);
        return is_plain(&block);
    };
    // The last block may overlap the one before.
    text.as_chunks().0.iter().all(is_plain) && is_plain(last)
}

/// Escape as serde_json does: with JSON's short escapes where they exist.
#[cold]
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            _ if is_special(byte) => {
                out.extend_from_slice(b"\\u00");
                out.extend([byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]));
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend([b'\\', short]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn written(text: &str) -> String {
        let mut line = Line::with_capacity(0);
        line.text(text!("text"), text);
        String::from_utf8(line.finish()).unwrap()
    }

    #[test]
    fn every_character_of_one_byte_is_written_as_serde_json_does_wherever_it_stands_in_a_block() {
        for byte in 0..128_u8 {
            for before in 0..=2 * BLOCK {
                for after in [0, 1, BLOCK] {
                    let text = format!("{}{}{}", "x".repeat(before), byte as char, "y".repeat(after));
                    assert_eq!(written(&text), format!("{}\n", json!({"text": text})));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn texts_are_written_as_serde_json_does(
            text in prop_oneof![
                ".{0,600}",
                proptest::collection::vec(any::<char>(), 0..100).prop_map(String::from_iter),
                "[\\x00-\\x7f]{0,100}",
                "[\"\\\\\\x00-\\x1f]{0,400}",
            ],
        ) {
            prop_assert_eq!(written(&text), format!("{}\n", json!({"text": text})));
        }

        #[test]
        fn numbers_are_written_as_serde_json_does(first: u64, second: u64) {
            let mut line = Line::with_capacity(0);
            line.number(number!("a"), first);
            line.number(number!("b"), second);
            let expected = format!("{}\n", json!({"a": first, "b": second}));
            prop_assert_eq!(String::from_utf8(line.finish()).unwrap(), expected);
        }
    }
}
