//! A response body that is compressed as it is streamed.
//!
//! A part is read from the service only when the client has taken the previous ones, so backpressure works as
//! without compression; only the encoder's own buffers come on top. When the service pauses, however briefly,
//! the encoder is flushed, so an event is never held back. This costs a few percent of a large response's
//! compression ratio, and saves configuring which responses are interactive.
//!
//! A truncated body stays truncated: the encoder's trailer is written only after the end of the service's
//! response, and errors are passed on.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;
use hyper::header::HeaderMap;
use tokio::task::coop::poll_proceed;

use super::encoder::Encoder;
use crate::upstream::Rest;

/// Bytes compressed at a time: some 70 us of work at most.
const SLICE: usize = 8 * 1024;
/// The cost of a slice in tokio's cooperative budget of 128 operations, after which a task yields: about half
/// a millisecond.
const SLICE_OPERATIONS: usize = 14;

pub struct Compressed {
    rest: Box<Rest>,
    /// `None` after its end was written.
    encoder: Option<Encoder>,
    /// Received from the service, not yet compressed.
    input: Bytes,
    /// Whether the encoder may hold back data.
    unflushed: bool,
    trailers: Option<HeaderMap>,
}

impl Compressed {
    pub fn new(rest: Box<Rest>, encoder: Encoder) -> Self {
        Self { rest, encoder: Some(encoder), input: Bytes::new(), unflushed: false, trailers: None }
    }

    /// Keep a value alive as long as the body.
    pub fn keep(&mut self, kept: impl Send + 'static) {
        self.rest.keep(kept);
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let Some(encoder) = &mut self.encoder else {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            };
            for _ in 0..SLICE_OPERATIONS {
                ready!(poll_proceed(cx)).made_progress();
            }
            if self.input.is_empty() {
                match self.rest.poll_frame(cx)? {
                    Poll::Ready(Some(frame)) => match frame.into_data() {
                        Ok(part) => self.input = part,
                        Err(frame) => {
                            self.trailers = frame.into_trailers().ok();
                            return Poll::Ready(self.finish());
                        }
                    },
                    Poll::Ready(None) => return Poll::Ready(self.finish()),
                    Poll::Pending if !self.unflushed => return Poll::Pending,
                    Poll::Pending => {
                        self.unflushed = false;
                        let out = encoder.flush()?;
                        if out.is_empty() {
                            return Poll::Pending;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
            }
            let slice = self.input.split_to(self.input.len().min(SLICE));
            self.unflushed = true;
            let out = encoder.write(&slice)?;
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }

    fn finish(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        let end = self.encoder.take()?.finish();
        Some(end.map(|out| Frame::data(out.into())))
    }

    pub fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Read;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;
    use std::time::Duration;

    use counterfoil_policy::content_coding::Coding;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::upstream::Remainder;

    #[derive(Debug, Clone)]
    enum Step {
        Part(Vec<u8>),
        Pause,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Ending {
        Plain,
        Trailers,
        Cut,
    }

    /// A scripted service, and the number of bytes that it has sent.
    struct Script {
        steps: VecDeque<Step>,
        ending: Option<Ending>,
        said: Arc<AtomicUsize>,
    }

    impl Remainder for Script {
        fn poll_part(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
            match self.steps.pop_front() {
                Some(Step::Part(part)) => {
                    self.said.fetch_add(part.len(), Ordering::Relaxed);
                    return Poll::Ready(Ok(Some(Frame::data(part.into()))));
                }
                Some(Step::Pause) => return Poll::Pending,
                None => {}
            }
            Poll::Ready(match self.ending.take() {
                Some(Ending::Cut) => Err(io::ErrorKind::UnexpectedEof.into()),
                Some(Ending::Trailers) => {
                    let trailers = [("x-sum".parse().unwrap(), HeaderValue::from_static("1"))];
                    Ok(Some(Frame::trailers(trailers.into_iter().collect())))
                }
                Some(Ending::Plain) | None => Ok(None),
            })
        }

        fn poll_late(&mut self, _: Instant, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }

        fn at_least(&self) -> u64 {
            0
        }

        fn is_measured(&self) -> bool {
            false
        }

        fn is_ended(&self) -> bool {
            self.ending.is_none()
        }

        fn finish(self: Box<Self>) {}
    }

    /// The decoded bytes, and whether the decoder found the end.
    fn read(coding: Coding, compressed: &[u8]) -> (Vec<u8>, bool) {
        let mut decoder: Box<dyn Read> = match coding {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(compressed)),
            Coding::Brotli => Box::new(brotli::Decompressor::new(compressed, 4096)),
            Coding::Zstandard => Box::new(zstd::stream::read::Decoder::new(compressed).unwrap()),
        };
        let (mut read, mut room) = (Vec::new(), [0; 512]);
        loop {
            match decoder.read(&mut room) {
                Ok(0) => return (read, !compressed.is_empty()),
                Ok(length) => read.extend_from_slice(&room[..length]),
                Err(_) => return (read, false),
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let words = prop::collection::vec(prop::sample::select(vec!["data: ", "\n", "0123", "aa"]), 0..2_000);
        prop_oneof![
            2 => Just(Step::Pause),
            2 => prop::collection::vec(any::<u8>(), 1..300).prop_map(Step::Part),
            1 => words.prop_map(|words| Step::Part(words.concat().into_bytes())),
            1 => prop::collection::vec(any::<u8>(), 1..20_000).prop_map(Step::Part),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn what_goes_in_comes_out_and_is_there_at_each_pause(
            steps in prop::collection::vec(step(), 0..12),
            coding in prop::sample::select(Coding::ALL.to_vec()),
            ending in prop::sample::select(vec![Ending::Plain, Ending::Trailers, Ending::Cut]),
        ) {
            let twice = |step: &Step| match step {
                // During the first pause the encoder is flushed.
                Step::Pause => vec![Step::Pause, Step::Pause],
                part => vec![part.clone()],
            };
            let part = |step: &Step| match step {
                Step::Pause => Vec::new(),
                Step::Part(part) => part.clone(),
            };
            let whole = steps.iter().flat_map(part).collect::<Vec<u8>>();
            let said = Arc::<AtomicUsize>::default();
            let steps = steps.iter().flat_map(twice).collect();
            let script = Script { steps, ending: Some(ending), said: Arc::clone(&said) };
            let rest = Rest::begun(Bytes::new(), script, Duration::from_secs(60));
            let mut compressed = Compressed::new(Box::new(rest), Encoder::new(coding).unwrap());
            let mut cx = Context::from_waker(Waker::noop());
            let (mut out, mut trailers) = (Vec::new(), None);
            let failed = loop {
                match compressed.poll_frame(&mut cx) {
                    Poll::Pending => {
                        let said = said.load(Ordering::Relaxed);
                        prop_assert!(read(coding, &out).0 == whole[..said], "held back at a pause");
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            prop_assert!(!data.is_empty() && trailers.is_none());
                            out.extend_from_slice(&data);
                        }
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    },
                    Poll::Ready(Some(Err(_))) => break true,
                    Poll::Ready(None) => break false,
                }
            };
            prop_assert_eq!(failed, ending == Ending::Cut);
            prop_assert_eq!(trailers.is_some(), ending == Ending::Trailers);
            let (found, ended) = read(coding, &out);
            prop_assert_eq!(ended, ending != Ending::Cut);
            if ended {
                prop_assert!(compressed.is_end_stream());
                prop_assert!(found == whole, "{} of {} bytes", found.len(), whole.len());
            } else {
                prop_assert!(whole.starts_with(&found));
            }
        }
    }

    #[test]
    fn an_answer_holds_no_more_than_a_slice_beside_its_codec() {
        for coding in Coding::ALL {
            let mut random = 1_u64;
            let noise = std::iter::repeat_with(|| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 56) as u8
            });
            let body: Vec<u8> = noise.take(1 << 20).collect();
            let rest = Rest::whole(body.into(), None);
            let mut compressed = Compressed::new(Box::new(rest), Encoder::new(coding).unwrap());
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(Ok(frame))) = compressed.poll_frame(&mut cx) {
                let part = frame.into_data().unwrap();
                assert!(part.len() <= 256 * 1024, "{coding:?}: {}", part.len());
            }
        }
    }
}
