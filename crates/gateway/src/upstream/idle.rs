//! Closes upstream connections that were idle for too long, without a request that finds them.
//!
//! Each worker has its own connections, and so a task of its own that looks after them: from when it keeps the
//! first until it keeps none.

use std::cell::Cell;
use std::thread::LocalKey;
use std::time::Duration;

use tokio::runtime::Handle;

/// Between two looks at what is kept: an instance's end of an idle connection is not held open much
/// longer than was said, and a look at hundreds costs some microseconds.
const LOOK: Duration = Duration::from_secs(1);

/// Whether a worker's task is there, given back when it ends, with its runtime if need be.
struct Watching(&'static LocalKey<Cell<bool>>);

impl Drop for Watching {
    fn drop(&mut self) {
        // Without the thread's own data there is nobody left to tell.
        let _ = self.0.try_with(|watched| watched.set(false));
    }
}

/// Have `sweep` called every now and then until it says that nothing is left; `watched` says whether it is
/// already.
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
