//! A request body on an HTTP/2 stream, within flow control.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Frame;
use tokio::sync::oneshot;

use crate::headers::trailing;
use crate::upload::{Stopped, Stream};

pub struct Sending {
    stream: SendStream<Bytes>,
    /// Received but not yet sent; no more is read from the client before it is.
    part: Bytes,
    ended: bool,
    /// Whether the client is the one being waited for.
    pub waits_for_client: bool,
    /// How many times something was sent.
    pub moves: u64,
}

impl Sending {
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, part: Bytes::new(), ended: false, waits_for_client: false, moves: 0 }
    }

    /// Send everything, until the end of the body.
    pub fn poll(&mut self, upload: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        self.waits_for_client = false;
        while !self.ended {
            ready!(self.poll_part(cx))?;
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stopped::Instance));
            }
            let Poll::Ready(next) = upload.poll_next(cx) else {
                self.waits_for_client = true;
                return Poll::Pending;
            };
            let sent = match next.map_err(Stopped::Client)?.map(Frame::into_data) {
                Some(Ok(part)) => {
                    self.part = part;
                    continue;
                }
                Some(Err(frame)) => {
                    self.stream.send_trailers(trailing(frame.into_trailers().unwrap_or_default()))
                }
                None => self.stream.send_data(Bytes::new(), true),
            };
            sent.map_err(|_| Stopped::Instance)?;
            self.ended = true;
            self.moves += 1;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        while !self.part.is_empty() {
            self.stream.reserve_capacity(self.part.len());
            let room = match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => return Poll::Ready(Err(Stopped::Instance)),
                },
                room => room,
            };
            let part = self.part.split_to(room.min(self.part.len()));
            self.stream.send_data(part, false).map_err(|_| Stopped::Instance)?;
            self.moves += 1;
        }
        Poll::Ready(Ok(()))
    }

    /// Continue while the response is read, until either ends.
    pub fn carry_on(mut self, mut upload: Box<Stream>) -> CarriedOn {
        let (stop, mut stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let sent = tokio::select! {
                sent = poll_fn(|cx| self.poll(&mut upload, cx)) => sent,
                _ = &mut stopped => Err(Stopped::Instance),
            };
            match sent {
                Ok(()) => {}
                // The instance must not mistake a truncated body for a complete one.
                Err(Stopped::Client(_)) => self.stream.send_reset(Reason::CANCEL),
                Err(Stopped::Instance) => {
                    drop(self);
                    upload.discard().await;
                }
            }
        });
        CarriedOn { _stop: stop }
    }
}

/// A body that is sent while its response is read; dropping this cancels it.
pub struct CarriedOn {
    _stop: oneshot::Sender<()>,
}
