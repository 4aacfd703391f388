//! Policies of the data plane as pure state machines: no I/O and no clock; time is passed in as nanoseconds
//! of a monotonic clock.

pub mod admission;
pub mod balance;
pub mod breaker;
pub mod bulkhead;
pub mod caching;
pub mod cells;
pub mod content_coding;
pub mod cors;
pub mod fixed_window;
pub mod gcra;
pub mod gradient;
pub mod health;
pub mod keyed;
pub mod redirect;
pub mod replay;
pub mod retry_budget;
pub mod rewrite;
pub mod rolling;
pub mod shared_gcra;
pub mod sliding_counter;
pub mod sliding_log;
pub mod split;
mod sync;

/// What a key has left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Requests that would pass immediately.
    pub requests: u64,
    /// Time until the whole limit is available again, without further requests.
    pub reset_ns: u64,
}
