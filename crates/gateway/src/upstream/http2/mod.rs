//! Exchanges over HTTP/2, most importantly gRPC: with prior knowledge (RFC 9113, section 3.3), or negotiated
//! by TLS.
//!
//! What the instance reports decides whether a failed request is retried (section 8.7). A stream that was
//! refused, or is beyond the last one that a GOAWAY names, was not processed, so it may be retried whatever
//! its method. After a GOAWAY without an error, which is a regular shutdown of the connection, the request is
//! sent again at once on another connection, without counting as a failure of the instance. In all other
//! cases the request may have been processed.
//!
//! h2 is used without hyper's client, which neither distinguishes streams that wait to be opened from opened
//! ones nor exposes the instance's stream limit.

mod answer;
mod connection;
mod pool;
mod sending;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use hyper::header;
use hyper::http::Request;
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Scheme, Uri};
use hyper::{Method, Response};
use tokio::time::Instant;

use self::answer::Answer;
use self::connection::Lease;
use self::pool::{CONNECTIONS, lease};
use self::sending::{CarriedOn, Sending};
use super::gather::{Gathered, gather};
use super::{EVENT_TIMEOUT, Failure, Outgoing, Rest, Target, Timeouts, is_series};
use crate::headers::{self, Added};
use crate::hints::Hints;
use crate::respond::Body;
use crate::timer::Timer;
use crate::tunnel;
use crate::upload::{Stopped, Stream, Upload};

/// How many ended connections a request may run into before the failure is left to the service's retries: an
/// instance that shuts down ends all its connections.
const ENDED: usize = CONNECTIONS + 1;

/// Why there is no response.
enum Missed {
    /// The connection was shut down before it processed the request.
    Ended,
    Failed(Failure),
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<h2::Error> for Missed {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => Self::Ended,
            _ if error.is_go_away() && error.is_remote() => Self::Failed(Failure::Refused),
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Self::Failed(Failure::Refused),
            _ => Self::Failed(Failure::Unknown),
        }
    }
}

/// As in HTTP/1.1, except for bodies offered with `Expect: 100-continue`: these are requested from the client
/// here, and sent.
pub async fn exchange(
    target: Target<'_>,
    request: Outgoing<'_>,
    now: Instant,
    timeouts: &Timeouts,
) -> Result<Response<Body>, Failure> {
    let deadline = now + timeouts.answer;
    let Outgoing { parts, added, body, hints, .. } = request;
    for _ in 0..=ENDED {
        let mut lease = lease(&target, deadline, timeouts).await?;
        match ask(&mut lease, parts, &added, body, hints, deadline, timeouts.idle).await {
            Ok(asked) => {
                let deadline = timeouts.whole_until(deadline, asked.streamed);
                return answer(asked, lease, tunnel::method(parts), deadline, timeouts.idle).await;
            }
            Err(Missed::Failed(failure)) => return Err(failure),
            Err(Missed::Ended) => lease.end(),
        }
        if body.is_spent() {
            break;
        }
    }
    Err(Failure::Refused)
}

/// A request whose response's head has arrived.
struct Asked {
    head: Response<RecvStream>,
    /// Whether the request body was streamed.
    streamed: bool,
    carried_on: Option<CarriedOn>,
    timer: Timer,
}

/// Send a request on a connection and wait for the head of its response.
async fn ask(
    lease: &mut Lease,
    parts: &Parts,
    added: &Added<'_>,
    body: &mut Upload,
    hints: Option<Hints<'_>>,
    deadline: Instant,
    timeout: Duration,
) -> Result<Asked, Missed> {
    let length = match &*body {
        Upload::Whole(whole) => Some(whole.len() as u64),
        Upload::Stream(stream) => stream.sent().length,
        Upload::Upgrade(_) => Some(0),
    };
    let request = request(parts, added, lease.scheme(), length)?;
    // On an error nothing was sent.
    let (mut response, mut stream) = lease.send(request, length == Some(0)).map_err(|_| Missed::Ended)?;
    let mut timer = Timer::default();
    let streamed = matches!(body, Upload::Stream(_));
    let (head, carried_on) = match body {
        Upload::Stream(upload) => {
            let mut sending = Sending::new(stream);
            let (head, unsent) =
                ask_streaming(&mut response, hints, &mut sending, upload, &mut timer, timeout).await?;
            let wanted = unsent && head.status().as_u16() < 400;
            (head, if wanted { carry_on(sending, body) } else { None })
        }
        Upload::Whole(whole) => {
            if !whole.is_empty() {
                // If this fails, awaiting the response returns the reason.
                let _ = stream.send_data(whole.clone(), true);
            }
            (until(&mut response, hints, &mut timer, deadline).await?, None)
        }
        Upload::Upgrade(_) => (until(&mut response, hints, &mut timer, deadline).await?, None),
    };
    Ok(Asked { head, streamed, carried_on, timer })
}

/// The head of a request.
fn request(
    parts: &Parts,
    added: &Added<'_>,
    scheme: Scheme,
    length: Option<u64>,
) -> Result<Request<()>, Failure> {
    let method = tunnel::method(parts);
    let build = || -> Result<Request<()>, hyper::http::Error> {
        let mut uri = hyper::http::uri::Parts::default();
        uri.scheme = Some(scheme);
        uri.authority = Some(Authority::try_from(added.host.as_bytes())?);
        uri.path_and_query = parts.uri.path_and_query().cloned();
        if uri.path_and_query.is_none() {
            uri.path_and_query = Some("/".try_into()?);
        }
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = Uri::from_parts(uri)?;
        *request.headers_mut() = headers::map(method, &parts.headers, added, length)?;
        Ok(request)
    };
    // An invalid authority can't be an instance's.
    build().map_err(|_| Failure::Connect)
}

/// Poll for the head of the response, and pass on interim responses.
fn poll_head(
    response: &mut ResponseFuture,
    hints: Option<Hints<'_>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<RecvStream>, Missed>> {
    if let Some(hints) = hints {
        while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
            hints.tell(head.status(), head.headers());
        }
    }
    Pin::new(response).poll(cx).map_err(Missed::from)
}

async fn until(
    response: &mut ResponseFuture,
    hints: Option<Hints<'_>>,
    timer: &mut Timer,
    deadline: Instant,
) -> Result<Response<RecvStream>, Missed> {
    poll_fn(|cx| match poll_head(response, hints, cx) {
        Poll::Pending => timer.poll_late(deadline, cx).map(|()| Err(Failure::Late.into())),
        Poll::Ready(head) => Poll::Ready(head),
    })
    .await
}

/// Send a streamed body while waiting for the head of the response. Also returns whether some of the body is
/// unsent.
async fn ask_streaming(
    response: &mut ResponseFuture,
    hints: Option<Hints<'_>>,
    sending: &mut Sending,
    upload: &mut Stream,
    timer: &mut Timer,
    timeout: Duration,
) -> Result<(Response<RecvStream>, bool), Missed> {
    let (mut moves, mut until) = (0, None);
    poll_fn(|cx: &mut Context<'_>| {
        let sent = sending.poll(upload, cx);
        if let Poll::Ready(Err(Stopped::Client(fault))) = sent {
            return Poll::Ready(Err(Failure::Client(fault).into()));
        }
        if let Poll::Ready(head) = poll_head(response, hints, cx) {
            return Poll::Ready(head.map(|head| (head, sent.is_pending())));
        }
        if sending.waits_for_client || moves != sending.moves {
            // The client is being waited for, or the instance accepts the body: reset the timeout.
            (moves, until) = (sending.moves, None);
        }
        if sending.waits_for_client {
            return Poll::Pending;
        }
        let until = *until.get_or_insert_with(|| Instant::now() + timeout);
        ready!(timer.poll_late(until, cx));
        Poll::Ready(Err(Failure::Late.into()))
    })
    .await
}

/// Send the rest of a body in a task of its own, while the response is read.
fn carry_on(sending: Sending, body: &mut Upload) -> Option<CarriedOn> {
    match std::mem::replace(body, Upload::Whole(Bytes::new())) {
        Upload::Stream(stream) => Some(sending.carry_on(stream)),
        Upload::Whole(_) | Upload::Upgrade(_) => None,
    }
}

/// The response for the client: complete if it is small, otherwise streamed.
async fn answer(
    asked: Asked,
    lease: Lease,
    method: &Method,
    deadline: Instant,
    idle: Duration,
) -> Result<Response<Body>, Failure> {
    let Asked { head, carried_on, timer, .. } = asked;
    let (mut parts, stream) = head.into_parts();
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if *method != Method::HEAD {
        // The length is set again from the body.
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let series = is_series(&parts.headers);
    let timeout = if series { EVENT_TIMEOUT } else { idle };
    let through = series || carried_on.is_some();
    let mut answer = Answer::new(stream, length, timer, carried_on, lease);
    let is_bodiless = matches!(parts.status.as_u16(), 204 | 304);
    let body = match gather(&mut answer, through && !is_bodiless, deadline).await? {
        // These have no body; ignore anything that follows (RFC 9110, sections 15.3.5 and 15.4.5).
        _ if is_bodiless => Body::Whole(Bytes::new()),
        Gathered::Begun(read) => Body::Rest(Box::new(Rest::begun(read, answer, timeout))),
        Gathered::Whole { body, trailers: None } => Body::Whole(body),
        Gathered::Whole { body, trailers: Some(trailers) } => {
            Body::Rest(Box::new(Rest::whole(body, Some(trailers))))
        }
    };
    Ok(Response::from_parts(parts, body))
}
