//! HTTP/1.1 with instances, over connection pools per worker.
//!
//! An instance may close an idle connection while a request is on its way. Such a request is sent again at
//! once on a new connection, if nothing of it was sent, or if it is repeatable and nothing of a response was
//! received. This is a normal race, so it counts neither as a failure of the instance nor against the retry
//! budget. It happens at most once per attempt, and at most as often as there are idle connections. Any other
//! request that meets a closed connection may have been processed (RFC 9112, section 9.3.1), and fails.

mod answer;
mod connection;
mod pool;

use hyper::Response;
use hyper::http::request::Parts;
use tokio::time::Instant;

use self::answer::Answer;
use self::connection::Connection;
use self::pool::{Place, connect, give_back, pooled};
use super::gather::{Gathered, gather};
use super::{EVENT_TIMEOUT, Failure, Outgoing, Rest, Target, Timeouts, is_series};
use crate::headers::{Added, Sent};
use crate::hints::Hints;
use crate::http1::Head;
use crate::respond::Body;
use crate::tunnel;
use crate::upload::{Sending, Upload};

pub async fn exchange(
    target: Target<'_>,
    request: Outgoing<'_>,
    now: Instant,
    timeouts: &Timeouts,
) -> Result<Response<Body>, Failure> {
    let deadline = now + timeouts.answer;
    let Outgoing { parts, added, body, repeatable, hints } = request;
    let kept = pooled(target.address, target.tls, now);
    let was_kept = kept.is_some();
    let mut connection = match kept {
        Some(connection) => connection,
        None => Box::pin(connect(&target, deadline, timeouts)).await?,
    };
    let mut asked = ask(&mut connection, parts, &added, body, hints, deadline, timeouts).await;
    if was_kept
        && let Err(failure) = asked
        && !body.is_spent()
        && (failure == Failure::Refused
            || failure == Failure::Unknown && repeatable && connection.has_said_nothing())
    {
        connection = Box::pin(connect(&target, deadline, timeouts)).await?;
        asked = Box::pin(ask(&mut connection, parts, &added, body, hints, deadline, timeouts)).await;
    }
    let (head, sending) = asked?;
    if let Upload::Upgrade(upgrade) = &*body
        && head.upgrade.is_some()
    {
        return connection.tunnel(upgrade, head.headers);
    }
    let deadline = timeouts.whole_until(deadline, matches!(body, Upload::Stream(_)));
    let carried_on = sending.and_then(|sending| connection.carry_on(sending, body));
    let Head { status, headers, framing, reusable, .. } = head;
    let series = is_series(&headers);
    let timeout = if series { EVENT_TIMEOUT } else { timeouts.idle };
    let through = series || carried_on.is_some();
    let mut answer = Answer { connection, framing, place: None, carried_on };
    let body = match gather(&mut answer, through, deadline).await? {
        Gathered::Begun(read) => {
            answer.place = reusable.then(|| Place {
                address: target.address.to_owned(),
                tls: target.tls.cloned(),
                lifetimes: timeouts.lifetimes,
            });
            Body::Rest(Box::new(Rest::begun(read, answer, timeout)))
        }
        Gathered::Whole { body, trailers } => {
            if reusable {
                give_back(target.address, target.tls, timeouts.lifetimes, answer.connection);
            }
            match trailers {
                None => Body::Whole(body),
                Some(trailers) => Body::Rest(Box::new(Rest::whole(body, Some(trailers)))),
            }
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Send a request and read the head of its response. Also returns the unsent rest of a streamed body if the
/// instance responds before its end without an error.
async fn ask(
    connection: &mut Connection,
    parts: &Parts,
    added: &Added<'_>,
    body: &mut Upload,
    hints: Option<Hints<'_>>,
    deadline: Instant,
    timeouts: &Timeouts,
) -> Result<(Head, Option<Sending>), Failure> {
    let method = tunnel::method(parts);
    match body {
        Upload::Whole(whole) => {
            let sent = Sent { length: Some(whole.len() as u64), offered: false, upgrade: None };
            let body = connection.write(parts, added, sent, whole);
            Ok((connection.ask(method, None, body, hints, deadline).await?, None))
        }
        Upload::Stream(stream) => {
            let sent = stream.sent();
            connection.write(parts, added, sent, &[]);
            Box::pin(connection.ask_streaming(method, stream, sent, hints, timeouts.idle)).await
        }
        Upload::Upgrade(upgrade) => {
            let sent = Sent { length: Some(0), offered: false, upgrade: Some(upgrade) };
            let body = connection.write(parts, added, sent, &[]);
            Ok((connection.ask(method, Some(upgrade), body, hints, deadline).await?, None))
        }
    }
}
