//! Parser for both versions of the header ("The PROXY protocol, versions 1 & 2", Willy Tarreau, 2020): a line
//! of text, or a binary block that declares its length. Parsing is strict: what follows belongs to the
//! client, so the end of the header must be unambiguous.
//!
//! The existing library (ppp) accepts signed ports, and leaves limits and unknown address families to its
//! callers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The signature of version 2, with which neither HTTP, TLS nor version 1 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8] = b"PROXY ";
/// The maximum length of a line, including its end (section 2.1).
const LINE_BYTES: usize = 107;
/// The fixed part of version 2, including the length of the rest.
const FIXED_BYTES: usize = 16;
/// The maximum length of the rest: addresses, and extensions (TLVs), which are skipped. The specification
/// wants a header to fit into 536 bytes, and cloud providers stay below that.
const REST_BYTES: usize = 2048;

/// The result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// The header is incomplete.
    Partial,
    Whole {
        /// The length in bytes.
        length: usize,
        /// The source address; `None` if the connection is the proxy's own, or its family has no IP address.
        source: Option<IpAddr>,
    },
}

/// Why the bytes are not a valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Parse a header at the beginning of a connection.
///
/// # Errors
/// The bytes don't begin with a valid header.
pub fn parse(bytes: &[u8]) -> Result<Header, Malformed> {
    let begins = |with: &[u8]| {
        let length = with.len().min(bytes.len());
        bytes[..length] == with[..length]
    };
    if begins(SIGNATURE) {
        binary(bytes)
    } else if begins(WORD) {
        text(bytes)
    } else {
        Err(Malformed("it begins without a header"))
    }
}

fn text(bytes: &[u8]) -> Result<Header, Malformed> {
    let line = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        let is_longer = bytes.len() >= LINE_BYTES;
        return if is_longer { Err(Malformed("its line has no end")) } else { Ok(Header::Partial) };
    };
    let malformed = Malformed("its line makes no sense");
    let line = str::from_utf8(&line[..end]).map_err(|_| malformed)?;
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let source = match words[..] {
        // The rest of the line has to be ignored.
        ["UNKNOWN", ..] => None,
        [family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let is_port = |text: &str| {
                text.bytes().all(|byte| byte.is_ascii_digit())
                    && text.parse::<u16>().is_ok_and(|port| port.to_string() == text)
            };
            let address = |text: &str| -> Result<IpAddr, Malformed> {
                let address: IpAddr = text.parse().map_err(|_| malformed)?;
                if address.is_ipv4() == (family == "TCP4") { Ok(address) } else { Err(malformed) }
            };
            address(destination)?;
            if !is_port(source_port) || !is_port(destination_port) {
                return Err(malformed);
            }
            Some(address(source)?)
        }
        _ => return Err(malformed),
    };
    Ok(Header::Whole { length: end + 2, source })
}

fn binary(bytes: &[u8]) -> Result<Header, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else { return Ok(Header::Partial) };
    let [.., command, family, high, low] = *fixed;
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("its version or its command is unknown")),
    };
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(Malformed("its kind of address is unknown"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > REST_BYTES {
        return Err(Malformed("it is longer than what is read of one"));
    }
    let Some(rest) = rest.get(..length) else { return Ok(Header::Partial) };
    let short = Malformed("it has no room for its addresses");
    let source = match family {
        _ if is_local => None,
        // TCP over IPv4 and IPv6: both addresses, then both ports.
        0x11 if length < 12 => return Err(short),
        0x21 if length < 36 => return Err(short),
        0x11 => rest.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        0x21 => rest.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        // Unspecified, datagrams or Unix sockets: no client address.
        _ => None,
    };
    Ok(Header::Whole { length: FIXED_BYTES + length, source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Option<IpAddr> {
        match parse(bytes) {
            Ok(Header::Whole { length, source }) if length == bytes.len() => source,
            other => panic!("{other:?}: {bytes:?}"),
        }
    }

    fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    #[test]
    fn a_line_says_where_a_connection_comes_from() {
        let source = |line: &str| whole(format!("{line}\r\n").as_bytes()).map(|address| address.to_string());
        assert_eq!(source("PROXY TCP4 192.0.2.1 10.0.0.1 65535 443").as_deref(), Some("192.0.2.1"));
        assert_eq!(source("PROXY TCP6 2001:db8::1 fd00::1 1 443").as_deref(), Some("2001:db8::1"));
        assert_eq!(source("PROXY UNKNOWN"), None);
        assert_eq!(source("PROXY UNKNOWN ffff::1 ffff::2 1 what it likes"), None);
    }

    #[test]
    fn a_line_that_is_not_to_the_letter_is_none() {
        for line in [
            "PROXY",
            "PROXY ",
            "PROXY TCP4",
            "PROXY TCP5 192.0.2.1 10.0.0.1 1 2",
            "PROXY tcp4 192.0.2.1 10.0.0.1 1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3",
            "PROXY TCP4  192.0.2.1 10.0.0.1 1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 01 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 65536",
            "PROXY TCP4 192.0.2.01 10.0.0.1 1 2",
            "PROXY TCP4 ::1 ::2 1 2",
            "PROXY TCP6 192.0.2.1 10.0.0.1 1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\rx",
            "PROXY TCP4 192.0.2.1 nowhere 1 2",
        ] {
            assert!(matches!(parse(format!("{line}\r\n").as_bytes()), Err(Malformed(_))), "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES));
        assert_eq!(parse(endless.as_bytes()), Err(Malformed("its line has no end")));
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES - 16));
        assert_eq!(whole(longest.as_bytes()), None);
    }

    #[test]
    fn a_block_of_the_proxys_own_or_without_an_address_has_none() {
        let addresses = [7; 216];
        assert_eq!(whole(&block(0x20, 0x00, &[])), None);
        assert_eq!(whole(&block(0x20, 0x11, &addresses[..12])), None);
        for family in [0x00, 0x12, 0x22, 0x31, 0x32] {
            assert_eq!(whole(&block(0x21, family, &addresses)), None);
        }
    }

    #[test]
    fn a_block_that_is_none_is_refused_before_its_end() {
        let refused = |bytes: &[u8]| matches!(parse(bytes), Err(Malformed(_)));
        assert!(refused(&block(0x11, 0x11, &[0; 12])), "another version");
        assert!(refused(&block(0x22, 0x11, &[0; 12])), "another command");
        assert!(refused(&block(0x21, 0x41, &[0; 36])), "another family");
        assert!(refused(&block(0x21, 0x13, &[0; 36])), "another transport");
        assert!(refused(&block(0x21, 0x11, &[0; 11])) && refused(&block(0x21, 0x21, &[0; 35])), "too short");
        assert!(refused(&block(0x21, 0x11, &[0; REST_BYTES + 1])[..FIXED_BYTES]), "too long");
        for beginning in
            ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\n", "\x16\x03\x01", "\r\n\r\n\r\n", "PROXI"]
        {
            assert!(refused(beginning.as_bytes()), "{beginning:?}");
        }
    }

    /// A header and its source address.
    fn headers() -> impl Strategy<Value = (Vec<u8>, Option<IpAddr>)> {
        let ports = (any::<u16>(), any::<u16>());
        let rest = prop::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (any::<Ipv4Addr>(), any::<Ipv4Addr>(), ports).prop_map(|(source, destination, (from, to))| {
                let line = format!("PROXY TCP4 {source} {destination} {from} {to}\r\n");
                (line.into_bytes(), Some(source.into()))
            }),
            (any::<Ipv6Addr>(), any::<Ipv6Addr>(), ports).prop_map(|(source, destination, (from, to))| {
                let line = format!("PROXY TCP6 {source} {destination} {from} {to}\r\n");
                (line.into_bytes(), Some(source.into()))
            }),
            (any::<[u8; 4]>(), any::<[u8; 8]>(), rest.clone()).prop_map(|(source, to, rest)| {
                (block(0x21, 0x11, &[&source[..], &to, &rest].concat()), Some(IpAddr::from(source)))
            }),
            (any::<[u8; 16]>(), any::<[u8; 20]>(), rest.clone()).prop_map(|(source, to, rest)| {
                (block(0x21, 0x21, &[&source[..], &to, &rest].concat()), Some(IpAddr::from(source)))
            }),
            rest.prop_map(|rest| (block(0x20, 0x00, &rest), None)),
        ]
    }

    proptest! {
        #[test]
        fn a_header_is_read_once_it_is_there_whole_and_nothing_beyond_it(
            (header, source) in headers(),
            after in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            for length in 0..header.len() {
                prop_assert_eq!(parse(&header[..length]), Ok(Header::Partial));
            }
            let length = header.len();
            let read = parse(&[&header[..], &after].concat());
            prop_assert_eq!(read, Ok(Header::Whole { length, source }));
        }

        #[test]
        fn what_is_to_be_made_of_bytes_does_not_change_with_those_that_follow(
            begins in prop::sample::select(vec![&b""[..], SIGNATURE, b"PROXY ", b"PROXY TCP4 192.0.2.1 "]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = [begins, &bytes].concat();
            let cut = cut.index(bytes.len() + 1);
            match parse(&bytes[..cut]) {
                Ok(Header::Partial) => prop_assert!(cut < LINE_BYTES.max(FIXED_BYTES + REST_BYTES)),
                settled => prop_assert_eq!(parse(&bytes), settled),
            }
        }
    }
}
