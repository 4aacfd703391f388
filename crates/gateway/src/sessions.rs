//! The TLS session cache of this gateway; each session is resumed once.
//!
//! Early data (0-RTT) is what whoever records a client's first flight can send again. A ticket that
//! gateways open by a shared secret (`tickets.rs`) can't tell the second time from the first; a session
//! that is forgotten when it is resumed can (RFC 8446, section 8.1). rustls gives early data to such
//! sessions alone. It has a store of its own, which looks through all of its keys at each resumption,
//! under a lock that all workers share: this one takes a step or two however many there are.
//!
//! The bound is kept by generations. When as many sessions as half of it are new, those of the generation
//! before are forgotten: the youngest half is always there, and nothing is there twice as long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustls::server::StoresServerSessions;

/// Sessions of one generation; there are two. Each client is given two for each connection, so the last
/// connections of 16,384 clients can be resumed at least: as many as may be connected at a time. One
/// takes some 300 bytes, and all of them 10 MiB.
const GENERATION: usize = 32_768 / 2;
/// Bytes of a session beyond which it is none that rustls makes here: some 150 without certificates of
/// clients, which nobody asks for, and a name that was asked for.
const LARGEST: usize = 1024;

/// Sessions by the ids that clients show.
#[derive(Default)]
pub struct Sessions(Mutex<Generations>);

type Generation = HashMap<Box<[u8]>, Box<[u8]>>;

#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

impl Generations {
    fn put(&mut self, id: Vec<u8>, session: Vec<u8>, most: usize) {
        if self.young.len() >= most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id.into(), session.into());
    }

    fn take(&mut self, id: &[u8]) -> Option<Vec<u8>> {
        self.young.remove(id).or_else(|| self.old.remove(id)).map(Vec::from)
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        if session.len() > LARGEST {
            return false;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(id, session, GENERATION);
        true
    }

    /// Nothing: only TLS 1.2 would resume a session more than once.
    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(id)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sessions")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_session_is_there_once_and_the_youngest_half_always(
            steps in prop::collection::vec((any::<bool>(), 0u8..64), 0..200),
            most in 1usize..8,
        ) {
            let mut generations = Generations::default();
            // Those that were not taken, by when they were put.
            let (mut known, mut puts) = (Vec::new(), 0usize);
            for (is_put, which) in steps {
                if is_put {
                    generations.put(puts.to_be_bytes().to_vec(), vec![which], most);
                    known.push(puts);
                    puts += 1;
                } else if !known.is_empty() {
                    let number = known.remove(usize::from(which) % known.len());
                    let id = number.to_be_bytes();
                    prop_assert!(generations.take(&id).is_some() || puts - number > most);
                    prop_assert!(generations.take(&id).is_none());
                }
                prop_assert!(generations.young.len() + generations.old.len() <= 2 * most);
            }
        }
    }

    #[test]
    fn a_session_that_is_too_large_is_not_kept() {
        let sessions = Sessions::default();
        assert!(!sessions.put(vec![1], vec![0; LARGEST + 1]));
        assert!(sessions.put(vec![1], vec![0; LARGEST]));
        assert!(sessions.take(&[1]).is_some());
        assert!(sessions.take(&[1]).is_none());
    }
}
