//! Path prefix rewriting.
//!
//! A route is chosen by the normalized path, with needlessly encoded characters decoded, but the path is
//! forwarded as the client wrote it. So the prefix is matched against the written path as if it were
//! normalized: `/%61pi/x` begins with `/api` here too, and the rest is left as written.
//!
//! A prefix ends at a segment boundary. The result begins with exactly one slash: some servers that read a
//! path as a reference take two for the beginning of a host (RFC 3986, section 4.2).

use std::borrow::Cow;

/// A path prefix and its replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// Without a trailing slash.
    from: Box<str>,
    to: Box<str>,
}

impl Prefix {
    /// `from` is the prefix, without needless encoding; `to` replaces it.
    ///
    /// # Errors
    /// The one of them that isn't a plain path (`is_plain`).
    pub fn new<'a>(from: &'a str, to: &'a str) -> Result<Self, &'a str> {
        match [from, to].into_iter().find(|path| !is_plain(path)) {
            Some(wrong) => Err(wrong),
            None => Ok(Self { from: from.strip_suffix('/').unwrap_or(from).into(), to: to.into() }),
        }
    }

    /// Whether every path of a route begins with the prefix: `path` is an exact path, or a prefix that ends
    /// in `*`.
    pub fn begins(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&*self.from) else { return false };
        rest.starts_with('/') || rest.is_empty()
    }

    /// A path as the client wrote it with the prefix replaced; `None` if it doesn't begin with it.
    pub fn replaced(&self, path: &str) -> Option<String> {
        let rest = after(path, &self.from)?;
        if rest.is_empty() {
            return Some(self.to.to_string());
        }
        let rest = rest.strip_prefix('/')?.trim_start_matches('/');
        Some(format!("{}/{rest}", self.to.strip_suffix('/').unwrap_or(&self.to)))
    }
}

/// Whether every parser reads a configured path the same: visible ASCII beginning with one slash, with
/// nothing encoded, no dot segments, and nothing that ends a path.
pub fn is_plain(path: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_graphic() && !b"%?#\\\"<>`{|}^".contains(&byte);
    path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(letter)
        && !path.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

/// The rest after a prefix, as written.
fn after<'a>(path: &'a str, beginning: &str) -> Option<&'a str> {
    let mut rest = path;
    for wanted in beginning.bytes() {
        let (byte, length) = match rest.as_bytes() {
            [b'%', high, low, ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let meant = digit(*high).zip(digit(*low)).map(|(high, low)| (high * 16 + low) as u8);
                meant.filter(|byte| is_unreserved(*byte)).map_or((b'%', 1), |byte| (byte, 3))
            }
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        if byte != wanted {
            return None;
        }
        rest = rest.get(length..)?;
    }
    Some(rest)
}

/// Whether a byte is unreserved (RFC 3986, section 2.3).
pub fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Encode a text for a URL in a header: everything but visible ASCII is percent-encoded, so that it ends
/// neither the URL nor the line.
pub fn encoded(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            byte if is_plain(byte) => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replaced(from: &str, to: &str, path: &str) -> Option<String> {
        Prefix::new(from, to).unwrap().replaced(path)
    }

    #[test]
    fn a_beginning_is_taken_away_or_replaced_where_a_segment_ends() {
        for (from, to, path, wanted) in [
            ("/api", "/", "/api/x/y", Some("/x/y")),
            ("/api/", "/", "/api/x", Some("/x")),
            ("/api", "/", "/api/", Some("/")),
            ("/api", "/", "/api", Some("/")),
            ("/api", "/v2", "/api/x", Some("/v2/x")),
            ("/api", "/v2/", "/api/x", Some("/v2/x")),
            ("/old", "/new/", "/old", Some("/new/")),
            ("/", "/v2", "/x", Some("/v2/x")),
            ("/", "/v2", "/", Some("/v2/")),
            ("/api", "/", "/%61p%69/%61%2f", Some("/%61%2f")),
            ("/api", "/", "/api//evil.example", Some("/evil.example")),
            ("/api", "/", "/apiary", None),
            ("/api", "/", "/ap", None),
            ("/api", "/", "/api%2fx", None),
            ("/api", "/", "/%", None),
        ] {
            assert_eq!(replaced(from, to, path).as_deref(), wanted, "{from} {to} {path}");
        }
    }

    #[test]
    fn all_paths_of_a_route_must_begin_with_it() {
        let begins = |prefix: &str, path: &str| Prefix::new(prefix, "/").unwrap().begins(path);
        assert!(
            begins("/api", "/api/*") && begins("/api", "/api") && begins("/", "/*") && begins("/a", "/a/b*")
        );
        assert!(begins("/api/", "/api/x") && begins("/api/", "/api/*"));
        assert!(!begins("/api", "/api*") && !begins("/api", "/*") && !begins("/a/b", "/a/*"));
    }

    #[test]
    fn what_is_configured_is_a_plain_path() {
        for wrong in [
            "", "api", "//evil", "/a/../b", "/.", "/..;x/a", "/a?b", "/a#b", "/a b", "/%61", "/ä", "/\\x",
            "/a\n",
        ] {
            assert!(!is_plain(wrong), "{wrong:?}");
            assert!(Prefix::new("/a", wrong).is_err() && Prefix::new(wrong, "/a").is_err(), "{wrong:?}");
        }
        assert!(is_plain("/") && is_plain("/a/.b/c..;v=1@x:y,z~") && is_plain("/a//b"));
    }

    proptest! {
        #[test]
        fn whatever_is_replaced_begins_with_one_slash_and_keeps_its_end_as_it_was_written(
            to in "(/[a-c.]{1,3}){0,2}/?", rest in "[a-c/.%0-9;\\\\@:-]{0,12}", encoded in prop::collection::vec(any::<bool>(), 4),
        ) {
            prop_assume!(is_plain(&to));
            let beginning: String = "/api".chars().zip(encoded).map(|(letter, encoded)| match letter {
                letter if encoded && letter != '/' => format!("%{:02X}", letter as u32),
                letter => letter.to_string(),
            }).collect();
            let found = replaced("/api", &to, &format!("{beginning}/{rest}")).unwrap();
            prop_assert!(found.starts_with('/') && !found.starts_with("//"), "{}", found);
            prop_assert_eq!(found, format!("{}/{}", to.trim_end_matches('/'), rest.trim_start_matches('/')));
        }

        #[test]
        fn what_is_encoded_is_visible_and_means_the_same(text in "\\PC{0,8}[\\r\\n\\t \\\\<>\"]{0,3}") {
            let encoded = encoded(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'));
            let plain: String = text.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '/').collect();
            prop_assert!(plain.chars().all(|letter| encoded.contains(letter)));
        }
    }
}
