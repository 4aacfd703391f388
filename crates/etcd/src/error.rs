//! Errors, by what the caller can do about them, and the mapping of etcd's statuses.

use tonic::{Code, Status};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No response in time, or an inconclusive one: the operation may or may not have happened.
    #[error("{0}")]
    Unavailable(String),
    /// etcd refused; a retry would get the same response.
    #[error("{message}")]
    Refused { message: String, hint: &'static str },
}

/// The failure of one attempt at one member, internal to this crate.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The member may be unable to serve the request; another one might.
    Member {
        message: String,
        sent: bool,
    },
    /// The token has expired or is invalid; nothing was executed.
    Token,
    /// The lease has expired.
    NoLease,
    Refused {
        message: String,
        hint: &'static str,
    },
}

const CREDENTIALS: &str =
    "give the user in the address (http://user@host:port) and the password in ETCD_PASSWORD";
const NO_AUTHENTICATION: &str = "leave the user out of the address, or enable authentication in etcd";
const PERMISSION: &str = "grant the user's role read and write on the prefix /counterfoil/<application>/";
const SPACE: &str =
    "compact and defragment etcd, raise its quota, then clear the alarm: etcdctl alarm disarm";
const NOT_ETCD: &str = "the address must be of etcd 3.4 or later";

impl Failure {
    pub(crate) fn silent(member: &str) -> Self {
        Self::Member { message: format!("etcd at {member} did not answer in time"), sent: true }
    }

    /// Whether a new connection, possibly to another member, may succeed.
    pub(crate) fn blames_the_connection(&self) -> bool {
        matches!(self, Self::Member { .. } | Self::Token)
    }

    /// Whether the request was certainly not executed.
    pub(crate) fn harmless(&self) -> bool {
        matches!(self, Self::Member { sent: false, .. } | Self::Token)
    }

    /// Map a status. etcd distinguishes its errors by code and text (`rpctypes/error.go`).
    pub(crate) fn of(member: &str, status: &Status) -> Self {
        let text = status.message();
        let refused = |hint| Self::Refused { message: format!("etcd at {member} refused: {text}"), hint };
        match status.code() {
            Code::NotFound if text.contains("lease not found") => Self::NoLease,
            Code::Unauthenticated => Self::Token,
            Code::InvalidArgument if text.contains("revision in header is old") => Self::Token,
            Code::InvalidArgument if text.contains("user name is empty") => refused(CREDENTIALS),
            Code::InvalidArgument if text.contains("authentication failed") => refused(CREDENTIALS),
            Code::FailedPrecondition if text.contains("not enabled") => refused(NO_AUTHENTICATION),
            Code::PermissionDenied => refused(PERMISSION),
            Code::ResourceExhausted if text.contains("space exceeded") => refused(SPACE),
            Code::Unimplemented => refused(NOT_ETCD),
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::NotFound => {
                refused("")
            }
            _ => Self::Member {
                message: format!("etcd at {member}: {}", cause(status)),
                sent: !unsent(status),
            },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Member { message, .. } => Self::Unavailable(message),
            Failure::Token => Self::Unavailable("etcd does not accept its own tokens".to_owned()),
            Failure::NoLease => Self::Refused { message: "the lease has ended".to_owned(), hint: "" },
            Failure::Refused { message, hint } => Self::Refused { message, hint },
        }
    }
}

/// The innermost cause; the outer one is as unspecific as "transport error".
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Whether the request was never sent, because there was no connection.
fn unsent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
