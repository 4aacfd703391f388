//! Answers on their way to clients of HTTP/1.1 and HTTP/2, and clients that stop taking them.
//!
//! hyper asks for the next part of a body when it has room for it. From then on the service has to
//! move; from the moment that it gets one, the client has to. A client that takes none for too long
//! holds a connection to an instance and a place among its requests for nothing, so its connection
//! is cut off: with one stream of HTTP/2 that stands still all of them end, since hyper waits for
//! room where it can't be reached. Small answers hold nothing but their own bytes, and their
//! connections count as idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::client::{Client, Ending};
use crate::respond::Body;

/// The body of an answer, watched if it passes through.
pub struct Sent {
    body: Body,
    watched: Option<Watched>,
}

struct Watched {
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
        let watched = matches!(body, Body::Rest(_)).then(|| {
            let progress = Arc::<Progress>::default();
            let watching = tokio::spawn(watch(Arc::clone(&progress), Arc::clone(client), stall));
            Watched { progress, watching: watching.abort_handle() }
        });
        Self { body, watched }
    }
}

/// Cut a client off that takes no part for as long as `stall`, or up to twice that.
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
        let polled = Pin::new(body).poll_frame(cx);
        if let Some(Watched { progress, .. }) = watched {
            progress.parts.fetch_add(1, Ordering::Relaxed);
            progress.at_client.store(polled.is_ready(), Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
