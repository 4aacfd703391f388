//! One HTTP/3 stream: a request and its response.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use http_body_util::BodyExt;
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, Response};
use tokio::time::timeout;

use super::received::Received;
use super::{Answer, Arrived, Code, Exchange, Gone, Load, Receive};
use crate::client::Client;
use crate::door::Patience;
use crate::headers::OF_HTTP1;
use crate::hints::{Offer, Waiting};
use crate::proxy;
use crate::request_body::RequestBody;
use crate::respond::{Body, complete};
use crate::shared::Shared;

/// Serve one request and count the outcome.
pub async fn serve<E: Exchange>(
    shared: Arc<Shared>,
    client: Arc<Client>,
    patience: Patience,
    load: Arc<Load>,
    exchange: E,
) {
    if let Ok(Ok(arrived)) = timeout(patience.head, exchange.arrive()).await
        && respond(shared, client, patience, arrived).await == Ok(())
    {
        load.answered.fetch_add(1, Ordering::Relaxed);
    } else {
        load.given_up.fetch_add(1, Ordering::Relaxed);
    }
}

async fn respond<R: Receive, A: Answer>(
    shared: Arc<Shared>,
    client: Arc<Client>,
    patience: Patience,
    arrived: Arrived<R, A>,
) -> Result<(), Gone> {
    let Arrived { request, mut answer, mut settled, handshake } = arrived;
    let (mut parts, receive) = request.into_parts();
    let hints = Arc::<Waiting>::default();
    parts.extensions.insert(Arc::clone(&hints));
    if let Some(handshake) = handshake {
        parts.extensions.insert(handshake);
    }
    let asked_for_head = parts.method == Method::HEAD;
    let Ok(declared) = declared_length(&parts.headers) else {
        answer.abort(Code::MessageError);
        return Err(Gone);
    };
    let sending = async {
        let offer = Offer::of(&parts.headers, &hints);
        let body = RequestBody::Quic(Box::pin(Received::new(receive, declared, offer).await));
        let mut serving = Box::pin(proxy::serve(shared, client, Request::from_parts(parts, body)));
        let response = loop {
            let step = poll_fn(|cx| match serving.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Step::Answered(response)),
                Poll::Pending => match hints.take() {
                    interim if interim.is_empty() => Poll::Pending,
                    interim => Poll::Ready(Step::Before(interim)),
                },
            });
            match step.await {
                Step::Answered(response) => break response,
                Step::Before(all) => {
                    for interim in all {
                        timeout(patience.stall, answer.head(interim)).await.map_err(|_| Gone)??;
                    }
                }
            }
        };
        send(&mut answer, asked_for_head, response, patience).await
    };
    tokio::select! {
        biased;
        sent = sending => sent?,
        _ = &mut settled => return Err(Gone),
    }
    // The connection must not be closed before the client has received the response, or the timeout has
    // passed.
    match timeout(patience.stall, settled).await {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(Gone),
    }
}

/// The next event of a request being served.
enum Step {
    Answered(Response<Body>),
    Before(Vec<Response<()>>),
}

/// The request's `Content-Length`.
///
/// # Errors
/// The head is malformed: it has connection-specific fields, which HTTP/3 forbids (RFC 9114, section 4.2), or
/// an invalid length.
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Gone> {
    let other_te = headers.get(header::TE).is_some_and(|te| te != "trailers");
    if other_te || OF_HTTP1.iter().any(|name| headers.contains_key(*name)) {
        return Err(Gone);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|digits| digits.parse().ok()), lengths.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(Gone),
    }
}

async fn send<A: Answer>(
    answer: &mut A,
    asked_for_head: bool,
    response: Response<Body>,
    patience: Patience,
) -> Result<(), Gone> {
    let (mut parts, mut body) = response.into_parts();
    complete(&mut parts, &body, asked_for_head);
    answer.head(Response::from_parts(parts, ())).await?;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            answer.abort(Code::InternalError);
            return Err(Gone);
        };
        match frame.into_data() {
            Ok(part) => match timeout(patience.stall, answer.part(part)).await {
                Ok(sent) => sent?,
                Err(_) => {
                    // The client stopped reading this response; its other streams may still make progress.
                    answer.abort(Code::RequestCancelled);
                    return Err(Gone);
                }
            },
            Err(frame) => {
                if let Ok(trailer) = frame.into_trailers() {
                    answer.trailer(trailer).await?;
                }
            }
        }
    }
    answer.finish().await
}
