//! Replay detection for signed messages: each is accepted once, within a time window.
//!
//! A message older than the window is rejected for its age, so only younger ones must be remembered. Their
//! marks are kept in two generations, each started when the one before is as old as a mark can matter: marks
//! expire by dropping a whole generation, and never too early. A full generation rejects new messages, since
//! dropping marks would allow a replay.

use std::collections::HashSet;

/// The verdict on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the window, and seen for the first time.
    Fresh,
    /// Seen before.
    Replayed,
    /// Too old.
    Stale,
    /// Too far in the future, by a clock that differs too much.
    Early,
    /// The current generation is full.
    Full,
}

/// Remembers marks: collision-resistant digests of messages.
#[derive(Debug)]
pub struct ReplayWindow {
    window_ns: u64,
    skew_ns: u64,
    capacity: usize,
    begun_ns: u64,
    current: HashSet<u128>,
    previous: HashSet<u128>,
}

impl ReplayWindow {
    /// Accepts messages made at most `window_ns` ago or `skew_ns` ahead. Remembers up to `capacity` marks in
    /// each of two generations, each of which lasts `window_ns + skew_ns`.
    #[must_use]
    pub fn new(window_ns: u64, skew_ns: u64, capacity: usize) -> Self {
        let (current, previous) = (HashSet::new(), HashSet::new());
        Self { window_ns, skew_ns, capacity, begun_ns: 0, current, previous }
    }

    /// Judge a message with this mark, made at `made_ns` by its sender's clock; both times have the same
    /// epoch.
    pub fn judge(&mut self, mark: u128, made_ns: u64, now_ns: u64) -> Verdict {
        if made_ns > now_ns.saturating_add(self.skew_ns) {
            return Verdict::Early;
        }
        if now_ns > made_ns.saturating_add(self.window_ns) {
            return Verdict::Stale;
        }
        if now_ns >= self.begun_ns.saturating_add(self.window_ns.saturating_add(self.skew_ns)) {
            self.previous = std::mem::take(&mut self.current);
            self.begun_ns = now_ns;
        }
        if self.current.contains(&mark) || self.previous.contains(&mark) {
            return Verdict::Replayed;
        }
        if self.current.len() >= self.capacity {
            return Verdict::Full;
        }
        self.current.insert(mark);
        Verdict::Fresh
    }

    /// Number of marks remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    /// Whether no mark is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_message_passes_twice_whatever_the_times(
            messages in prop::collection::vec((0u128..20, 0u64..200, 0u64..40), 1..400),
        ) {
            let mut window = ReplayWindow::new(60, 30, 1_000);
            let mut made = std::collections::HashMap::new();
            let mut passed = HashSet::new();
            let mut now = 1_000u64;
            for (mark, age, step) in messages {
                now += step;
                // A message has one creation time, whenever it arrives.
                let made_ns = *made.entry(mark).or_insert((now + 40).saturating_sub(age));
                match window.judge(mark, made_ns, now) {
                    Verdict::Fresh => prop_assert!(passed.insert(mark), "it came before"),
                    Verdict::Replayed => prop_assert!(passed.contains(&mark)),
                    Verdict::Stale => prop_assert!(now > made_ns + 60),
                    Verdict::Early => prop_assert!(made_ns > now + 30),
                    Verdict::Full => prop_assert!(false, "there is room"),
                }
            }
        }

        #[test]
        fn what_is_young_and_new_passes_while_there_is_room_and_memory_is_bounded(
            steps in prop::collection::vec(0u64..20, 1..400),
        ) {
            let mut window = ReplayWindow::new(60, 30, 50);
            let mut now = 1_000u64;
            for (mark, step) in steps.into_iter().enumerate() {
                now += step;
                let room = window.current.len() < 50 || now >= window.begun_ns + 90;
                let verdict = window.judge(mark as u128, now, now);
                prop_assert_eq!(verdict, if room { Verdict::Fresh } else { Verdict::Full });
                prop_assert!(window.len() <= 100);
            }
        }
    }
}
