//! Fair scheduling of large answers, so that others are served in between.
//!
//! A worker is one thread, and its tasks run in the order in which they become ready. Each large answer
//! would be ready again and again: with two hundred of them whose clients begin to take them at once,
//! whoever asks for something small waits for two hundred of their turns, twice. So there is one turn
//! in each pass over those who are ready, in the order in which they asked for one. Who is alone has
//! the next turn after each pass as well, which takes a microsecond for each 64 KiB.
//!
//! A turn that was given and isn't used (its client takes nothing, its service sends nothing) keeps nobody
//! waiting: the next pass has another. On a worker that is busy with small answers the large ones
//! share what a turn in each pass is, more than 100 MiB a second together.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use tokio::task::yield_now;

/// Parts of an answer (8 KiB mostly) in one turn: some 64 KiB, a few dozen microseconds.
const PARTS: u32 = 8;

thread_local! {
    /// Who waits for a turn on this worker.
    static LINE: RefCell<VecDeque<Arc<Turn>>> = RefCell::default();
    /// Whether a turn was given in this pass, or in one before it that others wait for.
    static GIVEN: Cell<bool> = const { Cell::new(false) };
}

/// What one answer has of its turn. It is written by one thread, and read by the same.
#[derive(Default)]
pub struct Turn {
    parts: AtomicU32,
    waits: AtomicBool,
    waker: AtomicWaker,
}

impl Turn {
    /// Ready if a part may go on its way now.
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

/// Give a turn after each pass, for as long as somebody waits for one.
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

/// For as long as turns are given. Who waits when the worker ends waits no longer.
struct Given;

impl Drop for Given {
    fn drop(&mut self) {
        // Nothing is left of either when its thread ends.
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

    /// Answers of so many parts each, and the order in which parts of them went on their way.
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
        // The first has two: nobody else had asked for one by the time that it did again.
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
        // Nor does an answer that is given up while it waits.
        let gone = Arc::<Turn>::default();
        let _waits = poll_fn(|cx| Poll::Ready((other.poll_part(cx), gone.poll_part(cx)))).await;
        drop(gone);
        for _ in 0..10 * PARTS {
            poll_fn(|cx| other.poll_part(cx)).await;
        }
    }
}
