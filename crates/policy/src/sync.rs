//! The atomics and locks of this crate: those of loom where it explores interleavings.

#[cfg(loom)]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// Between a write and a read of two atomics, both `SeqCst`, of which another thread writes and reads
/// in the other order: one of the two sees the other. So says `SeqCst` itself; loom takes it for no
/// more than acquire and release, and needs to be told.
pub fn one_sees_the_other() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// The guard of a lock. No code panics while it holds one of this crate's, and if it did, each
/// value behind them is whole between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
