//! This crate's atomics and locks: loom's where loom explores interleavings.

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

/// Call between a write of one atomic and a read of another, both `SeqCst`, where another thread does the
/// same in the other order: at least one of them sees the other's write. `SeqCst` guarantees this by itself,
/// but loom treats it as acquire-release and needs the fence.
pub fn one_sees_the_other() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// Lock a mutex, ignoring poisoning. No code panics while it holds one of this crate's locks, and if it did,
/// the data is consistent between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
