//! Hand-over of jobs from the leader to the other workers.
//!
//! A job may be for some of the workers only, those with the lowest indices. The others park until
//! a job needs them again.

use super::sync::{AtomicPtr, AtomicU64, CachePadded, Ordering};
use super::wait_queue::WaitQueue;
use std::ptr;

/// Bits of the number of workers in [`Handover::word`].
pub const N_ACTIVE_BITS: u32 = 16;

/// Job as a worker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed<J> {
    /// Number of the job, from 1.
    pub number: u64,
    /// Number of workers that do it.
    pub n_active: usize,
    /// Address of the job; null sends the worker home.
    pub job: *const J,
}

/// Place where the leader puts a job and the workers find it.
pub struct Handover<J> {
    /// Number of the current job, and in the low bits how many workers do it. Waiting workers look
    /// at it all the time.
    word: CachePadded<AtomicU64>,
    /// Current job.
    job: AtomicPtr<J>,
    /// Workers that wait for the next job.
    idle: WaitQueue,
    /// Workers that wait for a job that needs them.
    parked: WaitQueue,
}

impl<J> Handover<J> {
    /// Place without a job yet, for `n` workers.
    pub fn new(n: usize) -> Handover<J> {
        Handover {
            word: CachePadded(AtomicU64::new(n as u64)),
            job: AtomicPtr::new(ptr::null_mut()),
            idle: WaitQueue::new(),
            parked: WaitQueue::new(),
        }
    }

    /// Hands a job to the workers with indices below `n_active`, or null to end their waiting. All
    /// workers must have left the job before.
    pub fn announce(&self, job: *const J, n_active: usize) {
        self.job.store(job.cast_mut(), Ordering::Relaxed);
        let (number, last_n_active) = unpack(self.word.0.load(Ordering::Relaxed));
        let word = (number + 1) << N_ACTIVE_BITS | n_active as u64;
        self.word.0.store(word, Ordering::Release);
        self.idle.wake_all();
        if n_active > last_n_active {
            self.parked.wake_all();
        }
    }

    /// Waits for a job after number `last` that worker `index` is to do.
    pub fn next(&self, index: usize, last: u64, spins: u32, idle: impl Fn()) -> Handed<J> {
        let word = || unpack(self.word.0.load(Ordering::Acquire));
        self.idle.wait(spins, idle, || word().0 != last);
        if word().1 <= index {
            self.parked.sleep_until(|| word().1 > index);
        }
        // It stays the current job until this worker has left it.
        let (number, n_active) = word();
        Handed { number, n_active, job: self.job.load(Ordering::Relaxed) }
    }
}

/// Number of the job, and of its workers.
fn unpack(word: u64) -> (u64, usize) {
    (word >> N_ACTIVE_BITS, (word & ((1 << N_ACTIVE_BITS) - 1)) as usize)
}
