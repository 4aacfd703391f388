//! Answers to HTTP/1.1 clients, and clients that stop reading.
//!
//! A body is polled only once the client has taken what was written: otherwise hyper would buffer 40 KiB and
//! TLS another 64 for each slow client. Once the service has delivered a part, the client has to read: a
//! client that reads nothing for too long holds a connection to an instance and a concurrency place for
//! nothing, and is cut off. Small answers hold only their own bytes, and their connections count as idle.
//!
//! A worker is one thread, and a client that reads a large answer as fast as it comes would monopolize it:
//! after some parts, other tasks get a turn (`turns.rs`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::client::{Client, Ending};
use crate::respond::Body;
use crate::turns::Turn;

/// The body of an answer, watched if it is streamed.
pub struct Sent {
    body: Body,
    watched: Option<Watched>,
}

struct Watched {
    client: Arc<Client>,
    turn: Arc<Turn>,
    progress: Arc<Progress>,
    watching: AbortHandle,
}

#[derive(Default)]
struct Progress {
    parts: AtomicU64,
    at_client: AtomicBool,
}

impl Sent {
    pub fn new(body: Body, client: &Arc<Client>, stall: Duration) -> Self {
        let watched = body.passes_through().then(|| {
            let (client, progress) = (Arc::clone(client), Arc::<Progress>::default());
            let watching = tokio::spawn(watch(Arc::clone(&progress), Arc::clone(&client), stall));
            Watched { client, turn: Arc::default(), progress, watching: watching.abort_handle() }
        });
        Self { body, watched }
    }
}

/// Cut off a client that takes nothing for `stall`, or up to twice that.
async fn watch(progress: Arc<Progress>, client: Arc<Client>, stall: Duration) {
    loop {
        let before = progress.parts.load(Ordering::Relaxed);
        sleep(stall).await;
        let same = progress.parts.load(Ordering::Relaxed) == before;
        if same && progress.at_client.load(Ordering::Relaxed) {
            return client.end(Ending::Cut);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { body, watched } = self.get_mut();
        let Some(watched) = watched else { return Pin::new(body).poll_frame(cx) };
        if watched.client.poll_taken(cx).is_pending() {
            watched.progress.at_client.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        ready!(watched.turn.poll_part(cx));
        let polled = Pin::new(body).poll_frame(cx);
        watched.progress.parts.fetch_add(1, Ordering::Relaxed);
        watched.progress.at_client.store(polled.is_ready(), Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::BodyExt;
    use hyper::body::Body as _;
    use hyper::header::HeaderValue;

    use super::*;
    use crate::upstream::Rest;

    async fn is_pending(sent: &mut Sent) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *sent).poll_frame(cx).is_pending())).await
    }

    #[tokio::test]
    async fn a_part_waits_until_the_client_has_taken_those_before_it() {
        let client = Arc::new(Client::new(HeaderValue::from_static("192.0.2.1")));
        let rest = Body::Rest(Box::new(Rest::whole(Bytes::from_static(b"part"), None)));
        let mut sent = Sent::new(rest, &client, Duration::from_secs(60));
        client.set_blocked(true);
        assert!(is_pending(&mut sent).await);
        assert!(sent.watched.as_ref().unwrap().progress.at_client.load(Ordering::Relaxed));
        let taking = tokio::spawn(async move { sent.frame().await.unwrap().unwrap().into_data() });
        tokio::task::yield_now().await;
        assert!(!taking.is_finished());
        client.set_blocked(false);
        assert_eq!(taking.await.unwrap().unwrap(), "part");
    }
}
