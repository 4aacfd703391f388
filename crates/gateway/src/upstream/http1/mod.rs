//! Exchanges in HTTP/1.1, over connections that each worker keeps for itself.

mod answer;
mod connection;
mod pool;

use hyper::Response;
use tokio::time::Instant;

use self::answer::Answer;
use self::pool::{connect, give_back, pooled};
use super::gather::{Gathered, gather};
use super::{EVENT_TIMEOUT, Failure, Outgoing, Rest, Target, Timeouts, is_series};
use crate::headers::Sent;
use crate::http1::Head;
use crate::respond::Body;
use crate::tunnel;
use crate::upload::Upload;

pub async fn exchange(
    target: Target<'_>,
    request: Outgoing<'_>,
    now: Instant,
    timeouts: &Timeouts,
) -> Result<Response<Body>, Failure> {
    let mut deadline = now + timeouts.answer;
    let mut connection = match pooled(target.address, target.tls) {
        Some(connection) => connection,
        None => Box::pin(connect(&target, deadline, timeouts.connect)).await?,
    };
    let Outgoing { parts, added, body, hints } = request;
    let method = tunnel::method(parts);
    let (head, carried_on) = match body {
        Upload::Whole(whole) => {
            let sent = Sent { length: Some(whole.len() as u64), offered: false, upgrade: None };
            let body = connection.write(parts, &added, sent, whole);
            (connection.ask(method, None, body, hints, deadline).await?, None)
        }
        Upload::Stream(stream) => {
            let sent = stream.sent();
            connection.write(parts, &added, sent, &[]);
            let (head, sending) =
                Box::pin(connection.ask_streaming(method, stream, sent, hints, timeouts.idle)).await?;
            // How long the client took over its body is not counted against the instance.
            deadline = deadline.max(Instant::now() + timeouts.idle);
            (head, sending.and_then(|sending| connection.carry_on(sending, body)))
        }
        Upload::Upgrade(upgrade) => {
            let sent = Sent { length: Some(0), offered: false, upgrade: Some(upgrade) };
            let body = connection.write(parts, &added, sent, &[]);
            let head = connection.ask(method, Some(upgrade), body, hints, deadline).await?;
            if head.upgrade.is_some() {
                return connection.tunnel(upgrade, head.headers);
            }
            (head, None)
        }
    };
    let Head { status, headers, framing, reusable, .. } = head;
    let series = is_series(&headers);
    let timeout = if series { EVENT_TIMEOUT } else { timeouts.idle };
    let through = series || carried_on.is_some();
    let mut answer = Answer { connection, framing, place: None, carried_on };
    let body = match gather(&mut answer, through, deadline).await? {
        Gathered::Begun(read) => {
            answer.place = reusable.then(|| (target.address.to_owned(), target.tls.cloned()));
            Body::Rest(Box::new(Rest::begun(read, answer, timeout)))
        }
        Gathered::Whole { body, trailers } => {
            if reusable {
                give_back(target.address, target.tls, answer.connection);
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
