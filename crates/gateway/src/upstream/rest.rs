//! The rest of a response that is large, or has trailers, streamed through.

use std::any::Any;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::HeaderMap;
use tokio::time::Instant;

/// The rest of a response, in either protocol.
pub trait Remainder: Send {
    /// The next part, then the trailers, then `None`.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>>;

    /// Ready from `deadline` on.
    fn poll_late(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()>;

    /// A lower bound of the bytes to come.
    fn at_least(&self) -> u64;

    /// Whether that bound is exact.
    fn is_measured(&self) -> bool;

    fn is_ended(&self) -> bool;

    /// Called at the end of the body: reuse the connection if possible.
    fn finish(self: Box<Self>);
}

pub struct Rest {
    read: Bytes,
    trailers: Option<HeaderMap>,
    /// `None` after the end.
    answer: Option<Box<dyn Remainder>>,
    timeout: Duration,
    /// The deadline for the next part, while it is awaited.
    until: Option<Instant>,
    /// Dropped together with the body, after the last part.
    kept: Vec<Box<dyn Any + Send>>,
}

impl Rest {
    /// A complete body, with trailers if there are any.
    pub fn whole(read: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { read, trailers, answer: None, timeout: Duration::ZERO, until: None, kept: Vec::new() }
    }

    /// The beginning of a body and its rest, each part of which has to arrive within `timeout`.
    pub fn begun(read: Bytes, answer: impl Remainder + 'static, timeout: Duration) -> Self {
        Self { read, trailers: None, answer: Some(Box::new(answer)), timeout, until: None, kept: Vec::new() }
    }

    /// Keep a value alive as long as the body.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        self.kept.push(Box::new(kept));
    }

    /// Put back data that was read, to be read again.
    pub fn put_back(&mut self, read: Bytes) {
        self.read = read;
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let part = match answer.poll_part(cx) {
            Poll::Ready(part) => part,
            Poll::Pending => {
                let until = *self.until.get_or_insert_with(|| Instant::now() + self.timeout);
                ready!(answer.poll_late(until, cx));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        self.until = None;
        if answer.is_ended()
            && let Some(answer) = self.answer.take()
        {
            answer.finish();
        }
        Poll::Ready(part.transpose())
    }

    pub fn is_end_stream(&self) -> bool {
        let ended = self.answer.as_ref().is_none_or(|answer| answer.is_ended());
        self.read.is_empty() && ended && self.trailers.is_none()
    }

    pub fn size_hint(&self) -> SizeHint {
        let known = self.read.len() as u64 + self.answer.as_ref().map_or(0, |answer| answer.at_least());
        if self.trailers.is_none() && self.answer.as_ref().is_none_or(|answer| answer.is_measured()) {
            return SizeHint::with_exact(known);
        }
        let mut hint = SizeHint::default();
        hint.set_lower(known);
        hint
    }
}
