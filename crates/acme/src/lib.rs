//! The ACME operations (RFC 8555) for obtaining and renewing certificates: a blocking client with a runtime
//! of its own, on `instant-acme`.
//!
//! An order is identified by its URL between calls, and each call queries its current state. Nothing about an
//! order is kept in memory: a process that was killed continues with the stored URL and the same calls. When
//! to order, what to store and how to answer challenges is decided in Python (`counterfoil.gateway.acme`).

mod client;
mod error;
mod transport;

pub use client::{Client, External, Window};
pub use error::Error;
