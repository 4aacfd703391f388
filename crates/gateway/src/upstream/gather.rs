//! Buffers the beginning of a response: small ones completely, before anything is forwarded.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use tokio::time::Instant;

use super::Failure;
use super::rest::Remainder;

/// A response up to this size is read completely before any of it is forwarded, so that a broken one can be
/// retried; larger ones are streamed.
const WHOLE: usize = 256 * 1024;

/// The buffered part of a response.
pub enum Gathered {
    /// The complete response.
    Whole { body: Bytes, trailers: Option<HeaderMap> },
    /// The beginning; the rest is to be streamed.
    Begun(Bytes),
}

/// Read a response until its end, or until it turns out to be large; nothing if it is to be streamed
/// (`through`).
///
/// # Errors
/// `Unknown` if it breaks off, `Late` after the deadline.
pub async fn gather(
    answer: &mut impl Remainder,
    through: bool,
    deadline: Instant,
) -> Result<Gathered, Failure> {
    let mut read = Joined::default();
    let mut trailers = None;
    loop {
        let most = read.len().max(usize::try_from(answer.at_least()).unwrap_or(usize::MAX));
        if through || most > WHOLE {
            return Ok(Gathered::Begun(read.into()));
        }
        let part = poll_fn(|cx| match answer.poll_part(cx) {
            Poll::Pending => answer.poll_late(deadline, cx).map(|()| Err(Failure::Late)),
            Poll::Ready(part) => Poll::Ready(part.map_err(|_| Failure::Unknown)),
        });
        let Some(part) = part.await? else {
            return Ok(Gathered::Whole { body: read.into(), trailers });
        };
        match part.into_data() {
            Ok(part) => read.push(part),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
}

/// Parts read so far. A single part is not copied.
#[derive(Default)]
struct Joined {
    first: Bytes,
    more: BytesMut,
}

impl Joined {
    fn len(&self) -> usize {
        self.first.len().max(self.more.len())
    }

    fn push(&mut self, part: Bytes) {
        if self.first.is_empty() {
            self.first = part;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&self.first);
        }
        self.more.extend_from_slice(&part);
    }
}

impl From<Joined> for Bytes {
    fn from(joined: Joined) -> Self {
        if joined.more.is_empty() { joined.first } else { joined.more.freeze() }
    }
}
