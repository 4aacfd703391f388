//! What a limit takes of a request, by itself: run by `bench/limits.py`. The time of each decision at
//! 5,000 a second over 1,000 keys, by local and by shared cells in turn, while another thread does
//! to the shared ones what an exchange does. Prints a JSON line for each round.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use counterfoil_policy::gcra::{Decision, Gcra};
use counterfoil_policy::shared_gcra::SharedGcra;

const KEYS: usize = 1_000;
const DECISIONS: usize = 10_000;
const APART: Duration = Duration::from_micros(200);
const EVERY: Duration = Duration::from_millis(50);

fn main() {
    let rounds = std::env::args().nth(1).and_then(|number| number.parse().ok()).unwrap_or(1);
    let started = Instant::now();
    let now_ns = || started.elapsed().as_nanos() as u64;
    let keys: Vec<_> = (0..KEYS).map(|number| format!("tenant-{number}")).collect();
    let local = Gcra::new(1e6, 1_000_000, 1_000_000);
    let shared = SharedGcra::new(1e6, 1_000_000, 1_000_000);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let sent_ns = now_ns();
                for (key, advance) in shared.take() {
                    shared.told(&key, sent_ns, advance.by_ns);
                }
                thread::sleep(EVERY);
            }
        });
        for _ in 0..rounds {
            let (local_p50, local_p99) = measure(&keys, |key| local.check(key, now_ns()));
            let (shared_p50, shared_p99) = measure(&keys, |key| shared.check(key, now_ns()));
            println!(
                "{{\"p50 ns\": {{\"counterfoil\": {shared_p50}, \"local\": {local_p50}}}, \
                 \"p99 ns\": {{\"counterfoil\": {shared_p99}, \"local\": {local_p99}}}}}"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// The median and the 99th percentile of one decision, in nanoseconds.
fn measure(keys: &[String], decide: impl Fn(&str) -> Decision) -> (u64, u64) {
    let mut took: Vec<u64> = (0..DECISIONS)
        .map(|number| {
            thread::sleep(APART);
            let began = Instant::now();
            black_box(decide(&keys[number % KEYS]));
            began.elapsed().as_nanos() as u64
        })
        .collect();
    took.sort_unstable();
    (took[DECISIONS / 2], took[DECISIONS * 99 / 100])
}
