//! Fair scheduling of large answers, so that other requests are served in between.
//!
//! A worker is one thread that runs tasks in the order in which they become ready. Large answers become ready
//! again and again: with two hundred of them whose clients start reading at once, a small request would wait
//! for two hundred of their turns, twice. So there is one turn per pass over the ready tasks, in the order in
//! which they were requested. An answer that is alone also gets the next turn after each pass, which costs a
//! microsecond per 64 KiB.
//!
//! An unused turn (the client takes nothing, the service sends nothing) blocks nothing: the next pass has
//! another. On a worker that is busy with small answers, the large ones share one turn per pass, more than
//! 100 MiB a second in total.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use tokio::task::yield_now;

/// Parts of an answer (mostly 8 KiB) per turn: some 64 KiB, a few dozen microseconds.
const PARTS: u32 = 8;

thread_local! {
    /// The queue for turns on this worker.
    static LINE: RefCell<VecDeque<Arc<Turn>>> = RefCell::default();
    /// Whether a turn was given in this pass, or in an earlier one while others wait.
    static GIVEN: Cell<bool> = const { Cell::new(false) };
}

/// The turn of one answer, written and read by one thread.
#[derive(Default)]
pub struct Turn {
    parts: AtomicU32,
    waits: AtomicBool,
    waker: AtomicWaker,
}

impl Turn {
    /// Ready if a part may be sent now.
    pub fn poll_part(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.parts.load(Ordering::Relaxed);
        if left > 0 {
            self.parts.store(left - 1, Ordering::Relaxed);
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.waits.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if !GIVEN.replace(true) {
            tokio::spawn(give());
            self.parts.store(PARTS - 1, Ordering::Relaxed);
            return Poll::Ready(());
        }
        self.waits.store(true, Ordering::Relaxed);
        LINE.with_borrow_mut(|line| line.push_back(Arc::clone(self)));
        Poll::Pending
    }
}

/// Give a turn after each pass while the queue isn't empty.
async fn give() {
    let _given = Given;
    loop {
        yield_now().await;
        let Some(next) = LINE.with_borrow_mut(VecDeque::pop_front) else { return };
        next.waits.store(false, Ordering::Relaxed);
        next.parts.store(PARTS, Ordering::Relaxed);
        next.waker.wake();
    }
}

/// Exists while turns are given. When the worker ends, the queue is dropped.
struct Given;

impl Drop for Given {
    fn drop(&mut self) {
        // The thread-locals may be destroyed already when the thread ends.
        let _ = GIVEN.try_with(|given| given.set(false));
        let _ = LINE.try_with(|line| line.take());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    /// Answers with these numbers of parts; returns the order in which their parts were sent.
    async fn order(answers: &[u32]) -> Vec<usize> {
        let passed = Rc::new(RefCell::new(Vec::new()));
        let local = LocalSet::new();
        for (number, parts) in answers.iter().copied().enumerate() {
            let passed = Rc::clone(&passed);
            local.spawn_local(async move {
                let turn = Arc::<Turn>::default();
                for _ in 0..parts {
                    poll_fn(|cx| turn.poll_part(cx)).await;
                    passed.borrow_mut().push(number);
                }
            });
        }
        local.await;
        passed.take()
    }

    #[tokio::test]
    async fn answers_take_turns_in_the_order_in_which_they_asked() {
        let order = order(&[24, 8, 12]).await;
        let turns: Vec<_> =
            order.chunk_by(|one, next| one == next).map(|turn| (turn[0], turn.len())).collect();
        // The first has two turns: no other had asked for one when it asked again.
        assert_eq!(turns, [(0, 16), (1, 8), (2, 8), (0, 8), (2, 4)]);
    }

    #[tokio::test]
    async fn who_is_ready_waits_for_one_turn_however_many_large_answers_there_are() {
        let large: Vec<_> = (0..200).map(|_| Arc::<Turn>::default()).collect();
        let parts = Arc::new(AtomicU32::new(0));
        for turn in large {
            let parts = Arc::clone(&parts);
            tokio::spawn(async move {
                loop {
                    poll_fn(|cx| turn.poll_part(cx)).await;
                    parts.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        yield_now().await;
        for _ in 0..100 {
            let before = parts.load(Ordering::Relaxed);
            yield_now().await;
            assert!(parts.load(Ordering::Relaxed) - before <= PARTS);
        }
        assert!(parts.load(Ordering::Relaxed) > 50 * PARTS, "one is given in each pass");
    }

    #[tokio::test]
    async fn a_turn_that_is_not_used_keeps_nobody_waiting() {
        let (idle, other) = (Arc::<Turn>::default(), Arc::<Turn>::default());
        assert!(poll_fn(|cx| Poll::Ready(idle.poll_part(cx))).await.is_ready());
        for _ in 0..10 * PARTS {
            poll_fn(|cx| other.poll_part(cx)).await;
        }
        // Nor does an answer that is dropped while it waits.
        let gone = Arc::<Turn>::default();
        let _waits = poll_fn(|cx| Poll::Ready((other.poll_part(cx), gone.poll_part(cx)))).await;
        drop(gone);
        for _ in 0..10 * PARTS {
            poll_fn(|cx| other.poll_part(cx)).await;
        }
    }
}
