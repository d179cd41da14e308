//! Barrier between the phases of a job, and the count of workers that have left the job.
//!
//! Both are counted in one word, so that they cannot be mistaken for each other: a worker that
//! arrives at the end of a phase while another has left the job, or leaves it while another waits
//! for the end of a phase, finds the other's mark and breaks the barrier. A broken barrier lets
//! nobody pass until all workers have left the job and the leader mends it.
//!
//! Cost: one read-modify-write per worker and phase, and one store more for the last to arrive.
//! `tests/loom` checks this file with every interleaving of two workers, and some of three.

use super::sync::{AtomicU32, AtomicU64, CachePadded, Ordering};
use super::wait_queue::WaitQueue;
use std::time::Duration;

/// Bits of each of the two counts of [`Barrier::marks`].
pub const COUNT_BITS: u32 = 16;
/// Mark of a worker that has arrived at the end of the current phase.
const ARRIVED: u32 = 1;
/// Mark of a worker that has left the job.
const LEFT: u32 = 1 << COUNT_BITS;

/// Flags of [`Barrier::state`], below the number of phases that have ended.
const PANICKED: u64 = 1;
const UNEVEN: u64 = 2;
const ONE_PHASE: u64 = 4;

/// Reason why a barrier lets nobody pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A worker panicked.
    Panicked,
    /// Workers ran different numbers of phases.
    Uneven,
}

/// Barrier for the workers of one job after another.
pub struct Barrier {
    /// Workers that have arrived at the end of the current phase, in the low half; those that have
    /// left the job, in the high half.
    marks: CachePadded<AtomicU32>,
    /// Number of phases that have ended, in units of [`ONE_PHASE`], and why the barrier is broken.
    /// Waiting workers look at it all the time.
    state: CachePadded<AtomicU64>,
    queue: WaitQueue,
}

impl Barrier {
    /// Barrier of a team that has no job yet.
    pub fn new() -> Barrier {
        Barrier {
            marks: CachePadded(AtomicU32::new(0)),
            state: CachePadded(AtomicU64::new(0)),
            queue: WaitQueue::new(),
        }
    }

    /// Number of phases that have ended, of all jobs. Constant from a worker's entry into a phase
    /// to its arrival at the end.
    pub fn n_phases(&self) -> u64 {
        self.state.0.load(Ordering::Acquire) / ONE_PHASE
    }

    /// Ends a phase: returns when all `n` workers of the job have arrived, with the time slept. The
    /// last to arrive does `open` before anybody passes.
    ///
    /// # Errors
    /// [`Broken`], and then the worker must leave the job.
    pub fn pass(
        &self,
        n: usize,
        spins: u32,
        idle: impl Fn(),
        open: impl FnOnce(),
    ) -> Result<Duration, Broken> {
        let state = self.state.0.load(Ordering::Acquire);
        broken(state)?;
        let before = self.marks.0.fetch_add(ARRIVED, Ordering::AcqRel);
        if n_left(before) > 0 {
            self.break_down(Broken::Uneven);
        } else if n_arrived(before) + 1 == n {
            open();
            // Nobody else writes it now: all workers of the job are at this barrier.
            self.marks.0.store(0, Ordering::Relaxed);
            self.state.0.fetch_add(ONE_PHASE, Ordering::AcqRel);
            self.queue.wake_all();
            return Ok(Duration::ZERO);
        }
        let now = || self.state.0.load(Ordering::Acquire);
        let slept = self.queue.wait(spins, idle, || now() != state);
        broken(now())?;
        Ok(slept)
    }

    /// Lets nobody pass from now on; workers that wait return. Does nothing if it is broken already.
    /// For a worker that has not left the job.
    pub fn break_down(&self, why: Broken) {
        let flag = match why {
            Broken::Panicked => PANICKED,
            Broken::Uneven => UNEVEN,
        };
        let mut state = self.state.0.load(Ordering::Relaxed);
        while broken(state).is_ok() {
            let new = state | flag;
            match self.state.0.compare_exchange(state, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return self.queue.wake_all(),
                Err(other) => state = other,
            }
        }
    }

    /// Marks that a worker has left the job of `n` workers: from now on it uses nothing that the
    /// job borrows. Breaks the barrier if another worker waits for the end of a phase.
    pub fn leave(&self, n: usize) {
        // Read before: when this worker has left, the leader may already mend the barrier for the
        // next job. Until then no phase ends without this worker, so only a break changes it.
        let state = self.state.0.load(Ordering::Acquire);
        let before = self.marks.0.fetch_add(LEFT, Ordering::AcqRel);
        if n_arrived(before) > 0 && broken(state).is_ok() {
            let new = state | UNEVEN;
            let set =
                self.state.0.compare_exchange(state, new, Ordering::AcqRel, Ordering::Relaxed);
            if set.is_ok() {
                self.queue.wake_all();
            }
        }
        if n_left(before) + 1 == n {
            self.queue.wake_all();
        }
    }

    /// Returns when all `n` workers have left the job.
    pub fn wait_for_all_to_leave(&self, n: usize, spins: u32, idle: impl Fn()) {
        self.queue.wait(spins, idle, || n_left(self.marks.0.load(Ordering::Acquire)) == n);
    }

    /// Makes the barrier ready for the next job, and says why it was broken. For the leader, when
    /// all workers have left the job.
    ///
    /// # Errors
    /// [`Broken`]: the job was not done.
    pub fn mend(&self) -> Result<(), Broken> {
        self.marks.0.store(0, Ordering::Relaxed);
        let state = self.state.0.load(Ordering::Relaxed);
        if broken(state).is_err() {
            // One phase more, so that nobody takes the state for the one before the break.
            self.state.0.store((state / ONE_PHASE + 1) * ONE_PHASE, Ordering::Relaxed);
        }
        broken(state)
    }
}

fn n_arrived(marks: u32) -> usize {
    (marks % LEFT) as usize
}

fn n_left(marks: u32) -> usize {
    (marks / LEFT) as usize
}

fn broken(state: u64) -> Result<(), Broken> {
    match state % ONE_PHASE {
        0 => Ok(()),
        PANICKED => Err(Broken::Panicked),
        _ => Err(Broken::Uneven),
    }
}
