//! Outcomes of TLS handshakes with a service's instances: counters, and the current problem of each instance.
//! Kept as long as the service uses TLS, across reloads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

/// At most one line per instance is logged in this time, however often its state changes; the current state
/// is in the admin API.
const BETWEEN_LINES: Duration = Duration::from_secs(10);
/// Instances whose problems are kept; beyond this number, the earlier ones are dropped.
const INSTANCES: usize = 1024;

pub struct Record {
    service: String,
    /// Connections on which an instance has sent data, by full and resumed handshakes.
    pub full: AtomicU64,
    pub resumed: AtomicU64,
    pub failed: AtomicU64,
    troubles: Mutex<HashMap<String, Trouble>>,
}

#[derive(Default)]
struct Trouble {
    /// `None` once the problem is resolved.
    reason: Option<String>,
    told: Option<Instant>,
}

impl Record {
    pub fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            full: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            troubles: Mutex::default(),
        }
    }

    /// The current problem of an instance.
    pub fn trouble(&self, instance: &str) -> Option<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.get(instance)?.reason.clone()
    }

    /// Record a failed handshake.
    pub fn failed(&self, instance: &str, reason: &str) {
        self.count_failed();
        self.say(instance, reason);
    }

    pub fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Record the problem of an instance.
    pub fn say(&self, instance: &str, reason: &str) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.len() >= INSTANCES && !troubles.contains_key(instance) {
            troubles.clear();
        }
        let trouble = troubles.entry(instance.to_owned()).or_default();
        if trouble.reason.as_deref() == Some(reason) {
            return;
        }
        trouble.reason = Some(reason.to_owned());
        self.tell(instance, trouble);
    }

    /// Record that an instance has sent data over TLS, which resolves its problem.
    pub fn heard(&self, instance: &str, resumed: bool) {
        (if resumed { &self.resumed } else { &self.full }).fetch_add(1, Ordering::Relaxed);
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trouble) = troubles.get_mut(instance)
            && trouble.reason.take().is_some()
        {
            self.tell(instance, trouble);
        }
    }

    fn tell(&self, instance: &str, trouble: &mut Trouble) {
        let now = Instant::now();
        if trouble.told.is_some_and(|told| now.duration_since(told) < BETWEEN_LINES) {
            return;
        }
        trouble.told = Some(now);
        let line = match &trouble.reason {
            Some(reason) => json!({"level": "warning", "event": "instance_not_secured",
                "service": self.service, "instance": instance, "reason": reason}),
            None => json!({"level": "info", "event": "instance_secured",
                "service": self.service, "instance": instance}),
        };
        eprintln!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_instance_is_known_until_it_is_over() {
        let record = Record::new("s");
        record.failed("s-1", "expired");
        record.failed("s-2", "foreign");
        record.heard("s-2", true);
        assert_eq!(record.trouble("s-1").as_deref(), Some("expired"));
        assert_eq!(record.trouble("s-2"), None);
        assert_eq!(record.failed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn instances_that_come_and_go_leave_no_more_behind_than_there_is_room_for() {
        let record = Record::new("s");
        for number in 0..3 * INSTANCES {
            record.failed(&format!("s-{number}"), "expired");
        }
        assert!(record.troubles.lock().unwrap().len() <= INSTANCES);
    }
}
