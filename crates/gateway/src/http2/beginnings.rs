//! Fair scheduling of the start of HTTP/2 requests between connections.
//!
//! Starting a request takes most of the work for a small one, and may also open a connection to an instance:
//! up to 0.1 ms. An HTTP/1.1 client starts one request at a time, and one new client is admitted in each pass
//! of the scheduler. With HTTP/2, twenty clients that arrive at once with ten requests each would start two
//! hundred in one pass. So starts are counted over all connections of a worker; above a limit, each
//! connection starts one request in each pass.

use std::cell::Cell;

use tokio::task::yield_now;

/// Requests started in one pass before connections take turns: enough for a few pages.
const BEGUN: u32 = 64;

thread_local! {
    /// Requests started on this worker since the counter was last reset.
    static NOW: Cell<u32> = const { Cell::new(0) };
}

/// Called after each start: returns at once, or in the next pass if many have started.
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
