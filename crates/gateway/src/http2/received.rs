//! A request body over HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderMap};

use crate::hints::Offer;
use crate::request_body::Broken;

/// A request body. h2 enforces the declared content length.
pub struct Received {
    stream: RecvStream,
    /// Remaining bytes, if the request declares a length.
    left: Option<u64>,
    data_ended: bool,
    offer: Offer,
}

impl Received {
    pub fn new(stream: RecvStream, headers: &HeaderMap, offer: Offer) -> Self {
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = if stream.is_end_stream() { Some(0) } else { declared };
        Self { stream, left, data_ended: false, offer }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.data_ended {
            let Poll::Ready(data) = self.stream.poll_data(cx) else {
                self.offer.accept();
                return Poll::Pending;
            };
            self.offer.withdraw();
            match data {
                Some(Ok(part)) => {
                    // Release flow-control capacity. Fails only if the stream is closed.
                    let _ = self.stream.flow_control().release_capacity(part.len());
                    self.left = self.left.map(|left| left.saturating_sub(part.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(part))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(Broken::GivenUp))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(_) => Poll::Ready(Some(Err(Broken::GivenUp))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
