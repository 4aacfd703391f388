//! A request body, over any protocol.
//!
//! A single type for all protocols: the request path is compiled once, at the cost of one branch per frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::client::{Client, UnderWay};
use crate::grpc_web::Decoded;
use crate::http2::Received;

/// What a client sends after the head of its request.
pub enum RequestBody {
    /// From HTTP/1.1.
    Hyper {
        body: Incoming,
        /// Keeps the connection from resting until the body is read or dropped: its bytes are not a request.
        _under_way: Option<UnderWay>,
    },
    /// From HTTP/2, counted as for HTTP/1.1.
    Http2 { body: Received, _under_way: Option<UnderWay> },
    /// Moved elsewhere; reads as empty.
    Taken,
    /// gRPC-Web in base64.
    Decoded(Box<Decoded>),
    /// From HTTP/3.
    Quic(Pin<Box<dyn Body<Data = Bytes, Error = Broken> + Send>>),
}

/// The body ended early, or the client violated the protocol.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("the client gave up the request")]
    GivenUp,
    #[error("the body is no base64")]
    Base64,
    #[error("the body is longer or shorter than its content-length")]
    Length,
}

impl RequestBody {
    pub fn hyper(body: Incoming, client: &Arc<Client>) -> Self {
        let _under_way = (!body.is_end_stream()).then(|| Arc::clone(client).begin());
        Self::Hyper { body, _under_way }
    }

    pub fn http2(body: Received, client: &Arc<Client>) -> Self {
        let _under_way = (!body.is_end_stream()).then(|| Arc::clone(client).begin());
        Self::Http2 { body, _under_way }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Hyper { body, .. } => Pin::new(body).poll_frame(cx).map_err(Broken::from),
            Self::Http2 { body, .. } => Pin::new(body).poll_frame(cx),
            Self::Taken => Poll::Ready(None),
            Self::Decoded(body) => body.poll_frame(cx),
            Self::Quic(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper { body, .. } => body.is_end_stream(),
            Self::Http2 { body, .. } => body.is_end_stream(),
            Self::Taken => true,
            Self::Decoded(body) => body.is_end_stream(),
            Self::Quic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper { body, .. } => body.size_hint(),
            Self::Http2 { body, .. } => body.size_hint(),
            Self::Taken => SizeHint::with_exact(0),
            Self::Decoded(_) => SizeHint::default(),
            Self::Quic(body) => body.size_hint(),
        }
    }
}
