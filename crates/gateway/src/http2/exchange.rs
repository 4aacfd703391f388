//! One HTTP/2 stream: a request and its response.
//!
//! A client that stops reading a response occupies an upstream connection and a concurrency slot. After
//! `Patience::stall` its stream is reset; its other streams continue. (If the client is gone altogether, this
//! ends all its streams, and the connection then ends as an idle one.)

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Body as _;
use hyper::header;
use hyper::service::Service;
use hyper::{Method, Request, Response};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::{Handover, Received, Tunnelled};
use crate::client::Client;
use crate::door::Patience;
use crate::headers::OF_HTTP1;
use crate::hints::{Offer, Waiting};
use crate::request_body::RequestBody;
use crate::respond::{Body, complete};
use crate::turns::Turn;

/// Bytes of a response that a client has to accept within `Patience::stall`.
const PIECE: usize = 16 * 1024;

/// The client reset the stream or is gone.
struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

/// The task that serves one request.
pub fn serve<S>(
    client: &Arc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: &S,
    patience: Patience,
) -> impl Future<Output = ()> + Send + 'static
where
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let (mut parts, stream) = request.into_parts();
    let hints = Arc::<Waiting>::default();
    parts.extensions.insert(Arc::clone(&hints));
    let asked_for_head = parts.method == Method::HEAD;
    // DATA frames after a CONNECT belong to the tunnel, if one is established.
    let (body, tunnel) = if parts.method == Method::CONNECT {
        let (give, handover) = Handover::new();
        parts.extensions.insert(handover);
        (RequestBody::Taken, Some((give, stream)))
    } else {
        let offer = Offer::of(&parts.headers, &hints);
        (RequestBody::http2(Received::new(stream, &parts.headers, offer), client), None)
    };
    let serving = service.call(Request::from_parts(parts, body));
    async move {
        // There is no one to report the error to.
        let _: Result<(), Gone> = async {
            let answer = answered(&mut respond, serving, &hints).await?;
            send(&mut respond, asked_for_head, answer, tunnel, patience).await
        }
        .await;
    }
}

/// Wait for the response. Informational responses are sent as soon as they arrive.
async fn answered(
    respond: &mut SendResponse<Bytes>,
    serving: impl Future<Output = Result<Response<Body>, Infallible>>,
    hints: &Waiting,
) -> Result<Response<Body>, Gone> {
    let mut serving = pin!(serving);
    poll_fn(|cx| {
        if let Poll::Ready(Ok(answer)) = serving.as_mut().poll(cx) {
            return Poll::Ready(Ok(answer));
        }
        for interim in hints.take() {
            respond.send_informational(interim)?;
        }
        respond.poll_reset(cx).map(|_| Err(Gone))
    })
    .await
}

async fn send(
    respond: &mut SendResponse<Bytes>,
    asked_for_head: bool,
    answer: Response<Body>,
    tunnel: Option<(oneshot::Sender<Tunnelled>, RecvStream)>,
    patience: Patience,
) -> Result<(), Gone> {
    let (mut parts, body) = answer.into_parts();
    for name in OF_HTTP1 {
        parts.headers.remove(name);
    }
    if let Some((give, receive)) = tunnel
        && parts.status.is_success()
    {
        parts.headers.remove(header::CONTENT_LENGTH);
        let send = respond.send_response(Response::from_parts(parts, ()), false)?;
        // The receiver may be gone, too.
        let _ = give.send(Tunnelled::new(send, receive));
        return Ok(());
    }
    complete(&mut parts, &body, asked_for_head);
    let ended = body.is_end_stream();
    let stream = respond.send_response(Response::from_parts(parts, ()), ended)?;
    if ended { Ok(()) } else { send_body(stream, body, patience).await }
}

async fn send_body(mut stream: SendStream<Bytes>, mut body: Body, patience: Patience) -> Result<(), Gone> {
    let turn = body.passes_through().then(Arc::<Turn>::default);
    loop {
        let next = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            if let Some(turn) = &turn {
                ready!(turn.poll_part(cx));
            }
            Pin::new(&mut body).poll_frame(cx).map(Ok)
        });
        let Some(frame) = next.await? else {
            return Ok(stream.send_data(Bytes::new(), true)?);
        };
        let Ok(frame) = frame else {
            // The client must not mistake a truncated response for a complete one.
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Err(Gone);
        };
        match frame.into_data() {
            Ok(part) => {
                let last = body.is_end_stream();
                let Ok(sent) = send_part(&mut stream, part, last, patience).await else {
                    stream.send_reset(Reason::CANCEL);
                    return Err(Gone);
                };
                sent?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    stream.reserve_capacity(0);
                    return Ok(stream.send_trailers(trailers)?);
                }
            }
        }
    }
}

/// Send a part in pieces, each with a timeout. h2 would accept the whole part and buffer it without a
/// timeout; a piece at a time is handed over only as far as the flow-control window allows.
async fn send_part(
    stream: &mut SendStream<Bytes>,
    mut part: Bytes,
    last: bool,
    patience: Patience,
) -> Result<Result<(), Gone>, Elapsed> {
    loop {
        let piece = part.split_to(part.len().min(PIECE));
        let sent = timeout(patience.stall, send_piece(stream, piece, last && part.is_empty())).await?;
        if sent.is_err() || part.is_empty() {
            return Ok(sent);
        }
    }
}

async fn send_piece(stream: &mut SendStream<Bytes>, mut piece: Bytes, last: bool) -> Result<(), Gone> {
    loop {
        let room = room(stream, piece.len()).await?;
        let sent = piece.split_to(room.min(piece.len()));
        let ended = piece.is_empty();
        stream.send_data(sent, last && ended)?;
        if ended {
            return Ok(());
        }
    }
}

/// Wait for flow-control capacity for a piece and return it. Capacity taken from the connection's window is
/// used immediately: no other stream could use it while this one holds it.
async fn room(stream: &mut SendStream<Bytes>, length: usize) -> Result<usize, Gone> {
    if length == 0 {
        return Ok(0);
    }
    stream.reserve_capacity(length);
    poll_fn(|cx| {
        loop {
            if stream.capacity() > 0 {
                return Poll::Ready(Ok(stream.capacity()));
            }
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
            }
        }
    })
    .await
}
