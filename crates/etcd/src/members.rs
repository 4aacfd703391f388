//! Maintains one connection at a time, to a healthy member of the cluster, and fails over to the next member.
//!
//! This is not a load balancer: one process sends few requests. What matters is that a member which is
//! paused, or partitioned from its leader, is abandoned within `MEMBER_TIME`; a balancer would keep using it,
//! because its TCP connection stays up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::{Stream, StreamExt};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::error::{Error, Failure, cause};
use crate::protocol::{AuthenticateRequest, AuthenticateResponse, Empty, StatusResponse, path};

/// The timeout of a member's health check: one that needs longer for its own status is paused or unreachable,
/// and the next member may save a lease.
const MEMBER_TIME: Duration = Duration::from_secs(1);
/// The oldest supported version: the first in which a member reports that its cluster has no leader, and the
/// one in Debian.
const OLDEST: (u32, u32) = (3, 4);

pub(crate) struct Members {
    endpoints: Vec<Endpoint>,
    user: Option<AuthenticateRequest>,
    current: Mutex<Current>,
}

struct Current {
    connection: Option<Arc<Connection>>,
    /// The member to try next.
    next: usize,
}

/// Whether a request may be sent again if the outcome of the first attempt is unknown.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Repeat {
    Safe,
    Never,
}

impl Members {
    /// Does not connect yet.
    pub(crate) fn new(addresses: &[String], user: Option<(String, String)>) -> Result<Self, Error> {
        let endpoints: Result<Vec<Endpoint>, Error> = addresses.iter().map(|it| endpoint(it)).collect();
        Ok(Self {
            endpoints: endpoints?,
            user: user.map(|(name, password)| AuthenticateRequest { name, password }),
            current: Mutex::new(Current { connection: None, next: 0 }),
        })
    }

    /// Send a request to a member, and to further ones if that fails and repeating is safe.
    pub(crate) async fn call<Question, Answer>(
        &self,
        path: &'static str,
        question: Question,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Answer, Failure>
    where
        Question: Message + Clone + 'static,
        Answer: Message + Default + 'static,
    {
        let mut failed = None;
        // Each member once, plus once for an existing connection that turns out to be dead.
        for _ in 0..=self.endpoints.len() {
            let Ok(connection) = timeout_at(deadline, self.connection()).await else { break };
            let connection = connection?;
            let left = deadline.saturating_duration_since(Instant::now());
            // A repeatable request leaves half of the remaining time to the next member.
            let share = if repeat == Repeat::Safe && self.endpoints.len() > 1 { left / 2 } else { left };
            let asked = timeout(share, connection.unary(path, question.clone())).await;
            match asked.unwrap_or_else(|_| Err(Failure::silent(&connection.member))) {
                Err(failure) if failure.blames_the_connection() => {
                    connection.leave();
                    if !(failure.harmless() || repeat == Repeat::Safe) {
                        return Err(failure);
                    }
                    failed = Some(failure);
                }
                answer => return answer,
            }
        }
        Err(failed.unwrap_or_else(|| {
            let all: Vec<String> = self.endpoints.iter().map(|it| it.uri().to_string()).collect();
            Failure::silent(&all.join(", "))
        }))
    }

    /// The current connection, or a new one to the first healthy member.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection
            && !connection.left.load(Ordering::Relaxed)
        {
            return Ok(connection.clone());
        }
        let mut messages = Vec::new();
        for _ in &self.endpoints {
            let endpoint = &self.endpoints[current.next % self.endpoints.len()];
            // Advance before the attempt: a caller whose deadline passes cancels it, and that counts as a
            // failure, too.
            current.next = current.next.wrapping_add(1);
            let member = endpoint.uri().to_string();
            let attempt = timeout(MEMBER_TIME, Connection::open(endpoint, self.user.clone()));
            match attempt.await.unwrap_or_else(|_| Err(Failure::silent(&member))) {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    current.connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(Failure::Member { message, .. }) => messages.push(message),
                Err(other) => return Err(other),
            }
        }
        Err(Failure::Member { message: messages.join("; "), sent: false })
    }
}

pub(crate) struct Connection {
    /// The address, for messages.
    member: String,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    left: AtomicBool,
}

impl Connection {
    async fn open(endpoint: &Endpoint, user: Option<AuthenticateRequest>) -> Result<Self, Failure> {
        let member = endpoint.uri().to_string();
        let channel = endpoint.connect().await.map_err(|error| Failure::Member {
            message: format!("etcd at {member}: {}", cause(&error)),
            sent: false,
        })?;
        let mut connection = Self { member, channel, token: None, left: AtomicBool::new(false) };
        if let Some(user) = user {
            let answer: AuthenticateResponse = connection.unary(path::AUTHENTICATE, user).await?;
            let token = answer.token.parse().map_err(|_| Failure::Token)?;
            connection.token = Some(token);
        }
        connection.probe().await?;
        Ok(connection)
    }

    /// Abandon this connection; the next caller connects anew.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Check that the member is healthy: it answers, its version is supported, and it knows a leader.
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        let asked = timeout(MEMBER_TIME, self.unary(path::STATUS, Empty {})).await;
        let status: StatusResponse = asked.unwrap_or_else(|_| Err(Failure::silent(&self.member)))?;
        if !new_enough(&status.version) {
            return Err(Failure::Refused {
                message: format!("etcd at {} has the version {:?}", self.member, status.version),
                hint: "use etcd 3.4 or later",
            });
        }
        if status.leader == 0 {
            let message = format!("etcd at {} has no leader", self.member);
            return Err(Failure::Member { message, sent: true });
        }
        Ok(())
    }

    async fn unary<Question, Answer>(&self, path: &'static str, question: Question) -> Result<Answer, Failure>
    where
        Question: Message + 'static,
        Answer: Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec = ProstCodec::<Question, Answer>::default();
        match grpc.unary(self.request(question), PathAndQuery::from_static(path), codec).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.failure(&status)),
        }
    }

    /// Send one request and receive a stream of responses.
    pub(crate) async fn stream<Question, Answer>(
        &self,
        path: &'static str,
        question: Question,
    ) -> Result<Streaming<Answer>, Failure>
    where
        Question: Message + 'static,
        Answer: Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec = ProstCodec::<Question, Answer>::default();
        let questions = self.request(open_end(question));
        // etcd opens the stream at once; only the messages may take longer.
        match timeout(MEMBER_TIME, grpc.streaming(questions, PathAndQuery::from_static(path), codec)).await {
            Ok(Ok(answers)) => Ok(answers.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(Failure::silent(&self.member)),
        }
    }

    pub(crate) fn failure(&self, status: &Status) -> Failure {
        Failure::of(&self.member, status)
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Failure> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| self.failure(&Status::from_error(error.into())))?;
        Ok(grpc)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// A request stream that stays open after its only message: closing it would end the watch.
fn open_end<T>(message: T) -> impl Stream<Item = T> {
    tokio_stream::once(message).chain(tokio_stream::pending())
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let refused = |error: tonic::transport::Error| Error::Refused {
        message: format!("{address:?} is not an address of etcd: {}", cause(&error)),
        hint: "write http://host:port or https://host:port, with commas between members",
    };
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(refused)?;
    if endpoint.uri().scheme_str() == Some("https") {
        return endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(refused);
    }
    Ok(endpoint)
}

fn new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::new_enough;

    #[test]
    fn versions_before_3_4_are_too_old() {
        assert!(new_enough("3.4.23") && new_enough("3.7.3") && new_enough("3.10.0") && new_enough("4.0.0"));
        assert!(!new_enough("3.3.27") && !new_enough("2.3.8") && !new_enough("") && !new_enough("not found"));
    }
}
