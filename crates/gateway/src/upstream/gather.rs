//! The beginning of an answer: as much of it as is read before any of it leaves.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use tokio::time::Instant;

use super::Failure;
use super::rest::Remainder;

/// An answer up to this size is read whole before any of it leaves, so that a broken one can be
/// asked for again; what is larger passes through.
const WHOLE: usize = 256 * 1024;

/// What was read of an answer.
pub enum Gathered {
    /// All of it.
    Whole { body: Bytes, trailers: Option<HeaderMap> },
    /// This; the rest passes through.
    Begun(Bytes),
}

/// Read an answer until its end, or until it turns out to be large; of one that is to go `through`,
/// nothing.
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

/// Parts read so far; nothing is copied for as long as there is one part.
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
