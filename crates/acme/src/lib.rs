//! The verbs of ACME (RFC 8555) that keeping certificates needs: a blocking client with a runtime of its
//! own, over `instant-acme`.
//!
//! An order is known by its URL from one verb to the next, and each verb asks the directory anew how far it
//! has come. So nothing about an order is kept in memory: who was killed in the middle goes on with the URL
//! that was written down, by the same verbs. Not here: when to order, what to store and who serves the proof
//! (Python's `counterfoil.gateway.acme`).

mod client;
mod error;
mod transport;

pub use client::{Client, External, Window};
pub use error::Error;
