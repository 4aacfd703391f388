//! A response after its head, on an HTTP/2 stream.
//!
//! Flow-control capacity is released only when a part is forwarded to the client, so an instance sends at
//! most one stream window ahead of a slow client.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::Frame;
use tokio::time::Instant;

use super::connection::Lease;
use super::sending::CarriedOn;
use crate::headers::trailing;
use crate::timer::Timer;
use crate::upstream::rest::Remainder;

pub struct Answer {
    stream: RecvStream,
    /// Remaining bytes, if the response declares a length.
    left: Option<u64>,
    /// The data has ended; only trailers can follow.
    read: bool,
    ended: bool,
    timer: Timer,
    _carried_on: Option<CarriedOn>,
    _lease: Lease,
}

impl Answer {
    pub fn new(
        stream: RecvStream,
        length: Option<u64>,
        timer: Timer,
        carried_on: Option<CarriedOn>,
        lease: Lease,
    ) -> Self {
        let ended = stream.is_end_stream();
        let left = if ended { Some(0) } else { length };
        Self { stream, left, read: ended, ended, timer, _carried_on: carried_on, _lease: lease }
    }

    fn take(&mut self, part: Bytes) -> Result<Frame<Bytes>, h2::Error> {
        self.stream.flow_control().release_capacity(part.len())?;
        self.left = self.left.map(|left| left.saturating_sub(part.len() as u64));
        self.ended = self.stream.is_end_stream();
        Ok(Frame::data(part))
    }
}

impl Remainder for Answer {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        if !self.read {
            if let Some(part) = ready!(self.stream.poll_data(cx)) {
                let part = part.and_then(|part| self.take(part)).map_err(io::Error::other);
                return Poll::Ready(part.map(Some));
            }
            self.read = true;
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(io::Error::other)?;
        self.ended = true;
        let trailers = trailers.map(trailing).filter(|trailers| !trailers.is_empty());
        Poll::Ready(Ok(trailers.map(Frame::trailers)))
    }

    fn poll_late(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.poll_late(deadline, cx)
    }

    fn at_least(&self) -> u64 {
        self.left.unwrap_or(0)
    }

    fn is_measured(&self) -> bool {
        self.left.is_some()
    }

    fn is_ended(&self) -> bool {
        self.ended
    }

    fn finish(self: Box<Self>) {}
}
