//! Policies of the data plane as pure state machines: no I/O, no clock; time is passed in as
//! nanoseconds of a monotonic clock.

pub mod breaker;
pub mod caching;
pub mod gcra;
pub mod shared_gcra;
