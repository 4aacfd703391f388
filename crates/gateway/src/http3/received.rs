//! A request body over HTTP/3.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::Receive;
use crate::hints::Offer;
use crate::request_body::Broken;

/// A request body. A body longer or shorter than declared is malformed (RFC 9114, section 4.1.2): two readers
/// could disagree on where it ends.
pub struct Received<R> {
    receive: R,
    /// Remaining bytes, if the request declares a length.
    left: Option<u64>,
    /// The first frame, if it arrived together with the head.
    first: Option<Result<Frame<Bytes>, Broken>>,
    state: State,
    offer: Offer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Parts,
    Trailer,
    Done,
}

impl<R: Receive> Received<R> {
    /// A body of `declared` bytes. Polls for the first frame at once: usually this shows that there is no
    /// body.
    pub async fn new(receive: R, declared: Option<u64>, offer: Offer) -> Self {
        let mut received = Self { receive, left: declared, first: None, state: State::Parts, offer };
        poll_fn(|cx| {
            if let Poll::Ready(first) = received.poll_next(cx) {
                received.offer.withdraw();
                received.first = first;
            }
            Poll::Ready(())
        })
        .await;
        received
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.state {
                State::Parts => match ready!(self.receive.poll_part(cx)) {
                    Ok(Some(part)) => {
                        if let Some(left) = &mut self.left {
                            let Some(after) = left.checked_sub(part.len() as u64) else {
                                return self.fail(Broken::Length);
                            };
                            *left = after;
                        }
                        if !part.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(part))));
                        }
                    }
                    Ok(None) => self.state = State::Trailer,
                    Err(_) => return self.fail(Broken::GivenUp),
                },
                State::Trailer => match ready!(self.receive.poll_trailer(cx)) {
                    Err(_) => return self.fail(Broken::GivenUp),
                    Ok(_) if self.left.is_some_and(|left| left > 0) => return self.fail(Broken::Length),
                    Ok(trailer) => {
                        self.state = State::Done;
                        return Poll::Ready(trailer.map(|trailer| Ok(Frame::trailers(trailer))));
                    }
                },
                State::Done => return Poll::Ready(None),
            }
        }
    }

    fn fail(&mut self, broken: Broken) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.state = State::Done;
        Poll::Ready(Some(Err(broken)))
    }
}

impl<R: Receive> Body for Received<R> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let received = self.get_mut();
        if let Some(first) = received.first.take() {
            return Poll::Ready(Some(first));
        }
        let next = received.poll_next(cx);
        if next.is_pending() {
            received.offer.accept();
        } else {
            received.offer.withdraw();
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.state == State::Done
    }

    fn size_hint(&self) -> SizeHint {
        let first = match &self.first {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |part| part.len() as u64),
            _ => 0,
        };
        match (self.left, self.state) {
            (Some(left), _) => SizeHint::with_exact(left + first),
            (None, State::Done) => SizeHint::with_exact(first),
            (None, _) => {
                let mut hint = SizeHint::default();
                hint.set_lower(first);
                hint
            }
        }
    }
}
