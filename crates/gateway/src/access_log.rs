//! The gateway's stubs: one JSON line per request, written before its answer is sent or, if there is none,
//! when its client disconnects.
//!
//! A line is one `write(2)` to a file opened for appending, so lines of different workers don't interleave,
//! and a killed process loses none (a machine crash may lose the newest). Every answer that a client has seen
//! has its line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::json_line::{Line, number, text};

/// Initial capacity of a line; few lines need more.
const LINE_BYTES: usize = 512;

/// One line. It has no field for credentials, so they never reach the log.
#[cfg_attr(test, derive(Clone, serde::Serialize))]
pub struct Stub<'a> {
    pub time_us: u64,
    pub request_id: &'a str,
    /// Empty if requests aren't traced.
    #[cfg_attr(test, serde(skip_serializing_if = "str::is_empty"))]
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
    /// The cache outcome; empty without a cache.
    pub cache: &'a str,
}

impl Stub<'_> {
    fn line(&self) -> Vec<u8> {
        let mut line = Line::with_capacity(LINE_BYTES);
        line.number(number!("time_us"), self.time_us);
        line.text(text!("request_id"), self.request_id);
        if !self.trace_id.is_empty() {
            line.text(text!("trace_id"), self.trace_id);
        }
        line.text(text!("method"), self.method);
        line.text(text!("path"), self.path);
        line.number(number!("status"), self.status.into());
        line.text(text!("tenant"), self.tenant);
        line.text(text!("tier"), self.tier);
        line.text(text!("service"), self.service);
        line.text(text!("instance"), self.instance);
        line.number(number!("attempts"), self.attempts.into());
        line.number(number!("duration_us"), self.duration_us);
        line.text(text!("idempotency_key"), self.idempotency_key);
        line.text(text!("effect"), self.effect);
        line.text(text!("cache"), self.cache);
        line.finish()
    }
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
    /// The line wasn't written in full; the answer must then not claim success.
    pub fn write(&self, stub: &Stub<'_>) -> io::Result<()> {
        let line = stub.line();
        let written = (&self.0).write(&line)?;
        if written < line.len() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "a torn line"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_is_the_stub_as_serde_json_writes_it(
            numbers: (u64, u16, u32, u64), texts in proptest::collection::vec(".{0,40}", 11),
        ) {
            let stub = Stub {
                time_us: numbers.0,
                request_id: &texts[0],
                trace_id: &texts[1],
                method: &texts[2],
                path: &texts[3],
                status: numbers.1,
                tenant: &texts[4],
                tier: &texts[5],
                service: &texts[6],
                instance: &texts[7],
                attempts: numbers.2,
                duration_us: numbers.3,
                idempotency_key: &texts[8],
                effect: &texts[9],
                cache: &texts[10],
            };
            for stub in [Stub { trace_id: "", ..stub.clone() }, stub] {
                let expected = format!("{}\n", serde_json::to_string(&stub).unwrap());
                prop_assert_eq!(String::from_utf8(stub.line()).unwrap(), expected);
            }
        }
    }
}
