//! The coordination operations on etcd: a blocking client over gRPC, with a runtime of its own.
//!
//! It uses tonic instead of the crate `etcd-client` for two reasons. The build script of that crate needs
//! `protoc`, which a machine with only cargo does not have. And it balances over all members, while a lease
//! of a few seconds needs the opposite: one member that is known to work, abandoned at the first doubt
//! (`members`). What a lease means to its holder is up to Python's `Lease`.

mod client;
mod error;
mod members;
mod protocol;
mod watch;

pub use client::{Client, KeyValue, Lease, Watch};
pub use error::Error;
