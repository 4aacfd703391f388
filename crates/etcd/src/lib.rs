//! The coordination verbs on etcd: a blocking client over gRPC, with a runtime of its own.
//!
//! It speaks the protocol by tonic and not by the crate `etcd-client`, for two reasons. That crate's
//! build script needs `protoc`, which a machine with only cargo does not have. And it balances over all
//! members, while a lease of a few seconds needs the opposite: one member that is known to work, left at
//! the first doubt (`members`). Not here: what a lease means to its holder (Python's `Lease`).

mod client;
mod error;
mod members;
mod protocol;
mod watch;

pub use client::{Client, KeyValue, Lease, Watch};
pub use error::Error;
