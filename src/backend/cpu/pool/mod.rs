//! The CPU's worker threads, and the only memory they share for writing.
//!
//! Rayon's fork/join costs 10 to 30 microseconds, a token of a small model has some two hundred
//! regions: so there is one `broadcast` per generate call, and inside it the workers walk the step
//! together, phase by phase, with a barrier between phases (spin, then park).
//!
//! What a phase may touch is checked, so that everything above this room is safe code: within one
//! phase a `Shared` buffer is either read by all workers or written by all of them, and a writer
//! reaches only the part that its `Ticket` owns. Tickets of a phase never overlap, and both
//! borrow from the `Phase`, which ends at the barrier. The check is one relaxed load. A buffer
//! belongs to the pool that uses it until there is exclusive access to it again.
//!
//! Panics: if a worker panics in a job, the others leave it at their next barrier, and the panic
//! goes on in the leader when all have left. Until then nothing that the job borrows is freed. The
//! pool and the buffers stay usable; what the broken phase wrote is arbitrary.
//!
//! | file | what it is |
//! |---|---|
//! | `threads` | threads of rayon, or of the standard library for miri |
//! | `team`, `handover` | jobs from the leader to the workers, and their end |
//! | `barrier`, `wait_queue` | end of a phase: arrive, spin, sleep |
//! | `worker`, `ticket` | what a job sees: phases, shares of their items |
//! | `team_size` | how many workers are worth having on a busy machine |
//! | `mode`, `shared`, `slots` | memory that workers share, and the check of its use |

mod barrier;
mod handover;
mod mode;
mod shared;
mod slots;
mod sync;
mod team;
mod team_size;
#[cfg(test)]
mod tests;
mod threads;
mod ticket;
mod wait_queue;
mod worker;

pub(crate) use mode::LEN_MAX;
pub(crate) use shared::{Shared, write_cells_of_four};
pub use slots::Fill;
pub(crate) use slots::{PageSpace, SlotMemory};
pub use team::Leader;
pub(crate) use ticket::{Phase, Ticket};
pub(crate) use worker::Worker;

use super::topology::{CpuSet, pin_this_thread};
use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use team::Team;
use threads::Threads;

/// More threads than any machine this program is for; a typo must not start a million.
pub const MAX_THREADS: usize = 512;

thread_local! {
    /// Number of the pool that this thread is a worker of, 0 for none.
    static POOL_OF_THREAD: Cell<u64> = const { Cell::new(0) };
}

/// Private pool of worker threads.
pub struct Pool {
    threads: Threads,
    n_threads: usize,
    /// Number of the pool in this process, from 1.
    number: u64,
    /// Held while the workers are gathered.
    gathered: Mutex<()>,
}

impl Pool {
    /// Starts `n_threads` workers, at least one and at most [`MAX_THREADS`].
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn new(n_threads: usize) -> std::io::Result<Pool> {
        let n_threads = n_threads.clamp(1, MAX_THREADS);
        let threads = Threads::start(n_threads)?;
        Ok(Pool { threads, n_threads, number: mode::next_pool(), gathered: Mutex::new(()) })
    }

    /// Starts a worker on each of the CPUs, which does not leave it; at most [`MAX_THREADS`].
    ///
    /// # Errors
    /// The system has no more threads, or has no such CPU.
    pub fn pinned(cpus: CpuSet) -> std::io::Result<Pool> {
        let cpus: Vec<usize> = cpus.iter().take(MAX_THREADS).collect();
        let pool = Pool::new(cpus.len())?;
        let pinned =
            pool.threads.broadcast(|i| cpus.get(i).map_or(Ok(()), |&cpu| pin_this_thread(cpu)));
        pinned.into_iter().collect::<Result<(), _>>()?;
        Ok(pool)
    }

    /// Number of workers.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Gathers all workers and runs `f` on one of them; through the [`Leader`] it puts all of them
    /// to work as often as it likes. This is the one broadcast of a generate call. Another call at
    /// the same time waits for the end of this one.
    ///
    /// # Panics
    /// With the panic of `f`; the pool stays usable. From a worker of the same pool, which would
    /// wait for itself.
    pub fn lead<R: Send>(&self, f: impl FnOnce(&Leader<'_>) -> R + Send) -> R {
        let is_worker = POOL_OF_THREAD.get() == self.number;
        assert!(!is_worker, "a worker gathers the workers of its own pool");
        let _gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let cpus = std::thread::available_parallelism().map_or(self.n_threads, |n| n.get());
        let team = Team::new(self.number, self.n_threads, cpus);
        let f = Mutex::new(Some(f));
        let results = self.threads.broadcast(|index| {
            POOL_OF_THREAD.set(self.number);
            if index > 0 {
                team.follow(index);
                return None;
            }
            let f = f.lock().unwrap_or_else(PoisonError::into_inner).take();
            f.map(|f| team.lead(f))
        });
        let result = results.into_iter().flatten().next();
        result.expect("worker 0 ran `f` to its end, or its panic was passed on by `broadcast`")
    }
}
