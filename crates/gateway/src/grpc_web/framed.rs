//! A response body in gRPC-Web: the messages as they arrive, then the trailers as a frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::{Body as _, Frame};
use hyper::header::HeaderMap;

use super::frame;
use crate::respond::Body;

pub struct Framed {
    body: Body,
    /// The status of the call, if the service sent it in the head.
    ends: HeaderMap,
    text: bool,
    ended: bool,
}

impl Framed {
    pub fn new(body: Body, ends: HeaderMap, text: bool) -> Self {
        Self { body, ends, text, ended: false }
    }

    /// Keep a value alive as long as the body.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        self.body.keep(kept);
    }

    pub fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let data = match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?.map(Frame::into_data) {
            Some(Ok(data)) => data,
            Some(Err(other)) => {
                self.ended = true;
                frame(&other.into_trailers().unwrap_or_default())
            }
            None => {
                self.ended = true;
                if self.ends.is_empty() {
                    // The service sent no status; a trailers frame would hide that.
                    return Poll::Ready(None);
                }
                frame(&self.ends)
            }
        };
        // In the text form each part is padded separately, so that it can be decoded as soon as it arrives.
        let data = if self.text { STANDARD.encode(data).into() } else { data };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}
