//! A response after its head: the rest of its body, and whether the connection is reusable.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::Instant;

use super::connection::Connection;
use super::pool::{Place, give_back};
use crate::http1::Framing;
use crate::upload::CarriedOn;
use crate::upstream::rest::Remainder;

pub struct Answer {
    pub connection: Box<Connection>,
    pub framing: Framing,
    /// Where to return the connection at the end of the body, if it is reusable.
    pub place: Option<Place>,
    /// The request body, if it is still being sent.
    pub carried_on: Option<CarriedOn>,
}

impl Remainder for Answer {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        self.connection.poll_part(&mut self.framing, cx)
    }

    fn poll_late(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.timer.poll_late(deadline, cx)
    }

    fn at_least(&self) -> u64 {
        self.framing.at_least()
    }

    fn is_measured(&self) -> bool {
        matches!(self.framing, Framing::Length(_) | Framing::Done)
    }

    fn is_ended(&self) -> bool {
        self.framing == Framing::Done
    }

    /// The connection is reusable only if the request was sent completely.
    fn finish(mut self: Box<Self>) {
        if let Some(carried_on) = self.carried_on {
            self.connection.writer = carried_on.finish();
        }
        if let Some(Place { address, tls, lifetimes }) = self.place
            && self.connection.writer.is_some()
        {
            give_back(&address, tls.as_ref(), lifetimes, self.connection);
        }
    }
}
