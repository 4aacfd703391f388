//! This gateway's TLS session cache; each session can be resumed once.
//!
//! An attacker who records a client's first flight can replay its early data (0-RTT). A ticket that gateways
//! decrypt with a shared secret (`tickets.rs`) doesn't reveal a replay; a session that is removed when it is
//! resumed does (RFC 8446, section 8.1). rustls gives early data to such sessions only. rustls's own cache
//! scans all keys on each resumption, under a lock that all workers share; this one takes constant time.
//!
//! Two generations bound its size. When the young generation is full, at half of the bound, the old one is
//! dropped: the youngest half of all sessions is always available, and none lives longer than two
//! generations.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustls::server::StoresServerSessions;

/// Sessions per generation; there are two generations. Each connection issues two sessions, so the last
/// connections of 8,192 clients can be resumed at least, and of 16,384 at most: as many as may be connected
/// at a time. A session takes some 300 bytes, all of them 10 MiB.
const GENERATION: usize = 32_768 / 2;
/// Maximum bytes of a session. rustls makes sessions of some 150 bytes here, plus the server name: the
/// gateway doesn't ask for client certificates.
const LARGEST: usize = 1024;

/// Sessions by the id in the client's ticket.
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

    /// Always `None`: only TLS 1.2 resumes a session more than once.
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
            // Sessions that were not taken, in the order of their insertion.
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
