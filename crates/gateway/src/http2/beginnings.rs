//! The beginnings of requests, so that whoever asks for one thing doesn't wait for all that others ask for at once.
//!
//! To begin costs most of a small request, and a new connection to an instance besides: up to 0.1 ms. A client of
//! HTTP/1.1 begins one at a time, and the door lets in one client in each pass over those who are ready. In HTTP/2 twenty
//! clients who come at once with ten requests each would have two hundred begin in one pass. So they are counted over
//! all connections of a worker: beyond some of them a connection begins one in each pass.

use std::cell::Cell;

use tokio::task::yield_now;

/// Requests that begin in one pass before connections wait for their turns: a few pages.
const BEGUN: u32 = 64;

thread_local! {
    /// Begun on this worker since the count was last set back.
    static NOW: Cell<u32> = const { Cell::new(0) };
}

/// Go on after one has begun: at once, or in the next pass.
pub async fn pace() {
    let begun = NOW.get() + 1;
    NOW.set(begun);
    if begun == 1 {
        tokio::spawn(async {
            yield_now().await;
            NOW.set(0);
        });
    }
    if begun >= BEGUN {
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const CONNECTIONS: u32 = 20;

    async fn most_in_a_pass(connections: u32, requests: u32) -> u32 {
        let begun = Arc::new(AtomicU32::new(0));
        for _ in 0..connections {
            let begun = Arc::clone(&begun);
            tokio::spawn(async move {
                for _ in 0..requests {
                    begun.fetch_add(1, Ordering::Relaxed);
                    pace().await;
                }
            });
        }
        let (mut most, mut seen) = (0, 0);
        while seen < connections * requests {
            yield_now().await;
            let now = begun.load(Ordering::Relaxed);
            (most, seen) = (most.max(now - seen), now);
        }
        most
    }

    #[tokio::test]
    async fn who_is_ready_waits_for_a_few_beginnings_however_many_come_at_once() {
        assert!(most_in_a_pass(CONNECTIONS, 10).await <= 2 * (BEGUN + CONNECTIONS));
    }

    #[tokio::test]
    async fn a_page_begins_at_once() {
        assert_eq!(most_in_a_pass(1, BEGUN).await, BEGUN);
    }
}
