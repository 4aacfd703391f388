//! Outcomes of requests.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Failure;

/// Errors after which a task gives up; otherwise it would retry an unavailable server in a busy loop.
const HOPELESS: u64 = 10;
/// Significant digits of recorded durations, which are in microseconds.
const DIGITS: u8 = 3;

/// Counts and durations of one or several tasks.
pub struct Tally {
    durations: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

#[derive(Serialize)]
struct Report {
    /// Answered as expected.
    requests: u64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    seconds: f64,
    p50_us: u64,
    p99_us: u64,
}

impl Tally {
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { durations: Histogram::new(DIGITS)?, errors: 0, first_error: None })
    }

    pub fn answered(&mut self, took: Duration) -> Result<(), Failure> {
        Ok(self.durations.record(u64::try_from(took.as_micros())?)?)
    }

    pub fn failed(&mut self, error: String) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }

    pub fn hopeless(&self) -> bool {
        self.errors >= HOPELESS
    }

    pub fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.durations.add(&other.durations)?;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        Ok(())
    }

    /// The report as one line of JSON.
    pub fn report(&self, took: Duration) -> Result<String, Failure> {
        Ok(serde_json::to_string(&Report {
            requests: self.durations.len(),
            errors: self.errors,
            first_error: self.first_error.clone(),
            seconds: took.as_secs_f64(),
            p50_us: self.durations.value_at_quantile(0.50),
            p99_us: self.durations.value_at_quantile(0.99),
        })?)
    }
}
