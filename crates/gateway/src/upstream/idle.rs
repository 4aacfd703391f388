//! Closes idle upstream connections in the background, even if no request comes across them.
//!
//! Each worker has connections of its own and therefore a task of its own, which runs while there are pooled
//! connections.

use std::cell::Cell;
use std::thread::LocalKey;
use std::time::Duration;

use tokio::runtime::Handle;

/// The interval between sweeps: short enough that connections close soon after their timeout; a sweep over
/// hundreds takes a few microseconds.
const LOOK: Duration = Duration::from_secs(1);

/// Resets the flag when the task ends, also when its runtime drops it.
struct Watching(&'static LocalKey<Cell<bool>>);

impl Drop for Watching {
    fn drop(&mut self) {
        // Fails only while the thread is shutting down.
        let _ = self.0.try_with(|watched| watched.set(false));
    }
}

/// Call `sweep` periodically until it returns false. `watched` tells whether that task is already running.
pub fn watch(watched: &'static LocalKey<Cell<bool>>, sweep: fn() -> bool) {
    if watched.get() {
        return;
    }
    let Ok(runtime) = Handle::try_current() else { return };
    watched.set(true);
    let watching = Watching(watched);
    runtime.spawn(async move {
        let _watching = watching;
        loop {
            tokio::time::sleep(LOOK).await;
            if !sweep() {
                return;
            }
        }
    });
}
