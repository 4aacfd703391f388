//! One HTTP/2 stream: a request and its answer.
//!
//! A client that takes no part of an answer for too long holds a connection to an instance and a place
//! among its requests for nothing: its stream is reset, and what else it asks for goes on. (One that has
//! gone altogether has nothing under way then, and its connection ends as an idle one.)

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

/// What a client has to take of an answer within `Patience::stall`.
const PIECE: usize = 16 * 1024;

/// The client gave up the request, or is gone: there is nobody to answer.
struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

/// The task that answers one request.
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
    // What comes after a CONNECT is for the tunnel, if there will be one.
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
        // Nobody is left to be told.
        let _: Result<(), Gone> = async {
            let answer = answered(&mut respond, serving, &hints).await?;
            send(&mut respond, asked_for_head, answer, tunnel, patience).await
        }
        .await;
    }
}

/// The answer; what is said before it goes on at once.
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
        // Whoever would have it may be gone, too.
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
            // Nobody must take it for a whole answer.
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

/// Give a part to h2 piece by piece, each for as long as the client may take over it, so that none is out of our
/// sight before there is room for all of it: h2 would take as much as it is given, and hold it without an end.
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

/// Wait until the client has room for some of a piece, and how much. What is claimed of the room that all streams of
/// a connection share is used as soon as it is given: what a stream claims and can't use yet, no other could.
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
