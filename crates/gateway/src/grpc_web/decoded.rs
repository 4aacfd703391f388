//! A request body in gRPC-Web's text form, decoded as it arrives. It may be a concatenation of separately
//! padded base64 parts.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Frame};

use crate::request_body::{Broken, RequestBody};

/// Base64 characters that are decoded together, into three bytes.
const GROUP: usize = 4;

pub struct Decoded {
    body: RequestBody,
    /// An incomplete group.
    begun: BytesMut,
    ended: bool,
}

impl Decoded {
    pub fn new(body: RequestBody) -> Self {
        Self { body, begun: BytesMut::new(), ended: false }
    }

    pub fn is_end_stream(&self) -> bool {
        self.ended || (self.begun.is_empty() && self.body.is_end_stream())
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? else {
                self.ended = true;
                let whole = self.begun.is_empty();
                return Poll::Ready(if whole { None } else { Some(Err(Broken::Base64)) });
            };
            let Ok(letters) = frame.into_data() else { continue };
            self.begun.extend_from_slice(&letters);
            let groups = self.begun.split_to(self.begun.len() / GROUP * GROUP);
            if !groups.is_empty() {
                let decoded = decoded(&groups);
                self.ended = decoded.is_none();
                return Poll::Ready(Some(decoded.map(Frame::data).ok_or(Broken::Base64)));
            }
        }
    }
}

/// Decode complete groups, any of which may be padded; `None` if they are not base64.
fn decoded(mut groups: &[u8]) -> Option<Bytes> {
    let mut decoded = Vec::with_capacity(groups.len() / GROUP * 3);
    while !groups.is_empty() {
        let padded = groups.chunks(GROUP).position(|group| group.ends_with(b"="));
        let end = padded.map_or(groups.len(), |place| (place + 1) * GROUP);
        let (part, rest) = groups.split_at(end);
        STANDARD.decode_vec(part, &mut decoded).ok()?;
        groups = rest;
    }
    Some(decoded.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_that_are_padded_each_for_itself_are_decoded(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6),
        ) {
            let letters: String = parts.iter().map(|part| STANDARD.encode(part)).collect();
            prop_assert_eq!(decoded(letters.as_bytes()).unwrap(), parts.concat());
        }

        #[test]
        fn what_is_no_base64_is_nothing(letters in "[A-Z]{4}[!=?][A-Z=]{3}") {
            prop_assert!(decoded(letters.as_bytes()).is_none());
        }
    }
}
