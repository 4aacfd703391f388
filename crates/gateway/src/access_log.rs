//! The gateway's stubs: one JSON line for each request, written before its answer leaves or, without one, when
//! its client has hung up.
//!
//! A line is one `write(2)` to a file opened for appending, so lines of several workers don't mix
//! and a killed process leaves all of its lines behind (a lost machine may lose the newest). The
//! order matters: an answer that a client saw always has its line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

/// One line. Credentials are not among the fields, and so never in the log.
#[derive(Serialize)]
pub struct Stub<'a> {
    pub time_us: u64,
    pub request_id: &'a str,
    /// Empty where requests aren't traced.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trace_id: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
    pub tenant: &'a str,
    pub tier: &'a str,
    pub service: &'a str,
    pub instance: &'a str,
    pub attempts: u32,
    pub duration_us: u64,
    pub idempotency_key: &'a str,
    pub effect: &'a str,
    /// Where the answer of a route with a cache came from; empty without one.
    pub cache: &'a str,
}

pub struct AccessLog(File);

impl AccessLog {
    /// Open for appending.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Append one line.
    ///
    /// # Errors
    /// When the line isn't in the file whole: the answer must not claim success then.
    pub fn write(&self, stub: &Stub<'_>) -> io::Result<()> {
        let mut line = Vec::with_capacity(384);
        serde_json::to_writer(&mut line, stub)?;
        line.push(b'\n');
        let written = (&self.0).write(&line)?;
        if written < line.len() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "a torn line"));
        }
        Ok(())
    }
}
