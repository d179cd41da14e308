//! Waiting: first by spinning, then asleep.
//!
//! Spinning notices within some 100 ns, sleeping costs some 10 microseconds to be woken. A thread
//! that yields instead of sleeping gives its time slices away and is not called when the wait is
//! over.

use super::sync::{AtomicUsize, Condvar, Mutex, Ordering, fence};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Rounds of spinning, about 100 microseconds: longer than a phase of a small model is uneven,
/// shorter than a time slice.
pub const SPINS: u32 = if cfg!(miri) { 4 } else { 8_000 };

/// Queue of threads that sleep until somebody changes what they wait for.
pub struct WaitQueue {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl WaitQueue {
    /// Empty queue.
    pub fn new() -> WaitQueue {
        WaitQueue { sleepers: AtomicUsize::new(0), lock: Mutex::new(()), wake: Condvar::new() }
    }

    /// Returns when `passed`, with the time slept: spins up to `spins` rounds, doing `idle` in each,
    /// and then sleeps.
    ///
    /// What makes `passed` true must be an atomic write that [`WaitQueue::wake_all`] follows.
    pub fn wait(&self, spins: u32, idle: impl Fn(), passed: impl Fn() -> bool) -> Duration {
        for _ in 0..spins {
            idle();
            std::hint::spin_loop();
            if passed() {
                return Duration::ZERO;
            }
        }
        let start = Instant::now();
        self.sleep_until(passed);
        start.elapsed()
    }

    /// Returns when `passed`; see [`WaitQueue::wait`].
    pub fn sleep_until(&self, passed: impl Fn() -> bool) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence of `wake_all`: either that sees this sleeper, or `passed` sees what
        // was written before it.
        fence(Ordering::SeqCst);
        while !passed() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes the sleepers, after an atomic write of what they wait for.
    pub fn wake_all(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            // Whoever has counted itself but does not sleep yet holds the lock until it does.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}
