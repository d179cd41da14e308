//! Team of workers that one call of [`Pool::lead`](super::Pool::lead) gathers, and its leader.
//!
//! A job is borrowed from the leader's stack. It ends when every worker that does it has left it,
//! each by returning or by unwinding, and only then [`Leader::run`] returns or unwinds.

use super::MAX_THREADS;
use super::barrier::{self, Barrier, Broken};
use super::handover::{self, Handover};
use super::mode::next_phase;
use super::team_size::TeamSize;
use super::ticket::{Deal, NextTicket, parity};
use super::wait_queue::SPINS;
use super::worker::{Aborted, UNEVEN, Worker};
use crate::workers::Workers;
use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const _: () = assert!(MAX_THREADS < 1 << barrier::COUNT_BITS);
const _: () = assert!(MAX_THREADS < 1 << handover::N_ACTIVE_BITS);

/// Job: run by every worker of the team at the same time.
pub(super) type Job<'a> = dyn Fn(&Worker<'_>) + Sync + 'a;

/// State that the workers of one `lead` call share.
pub(super) struct Team {
    /// Number of the pool.
    pub pool: u64,
    /// Number of workers.
    pub n: usize,
    /// CPUs that this process may use: more workers than these do not spin.
    cpus: usize,
    handover: Handover<*const Job<'static>>,
    pub barrier: Barrier,
    /// Nanoseconds that workers have slept at barriers.
    slept_ns: AtomicU64,
    /// Number of the current phase.
    pub phase: AtomicU64,
    pub deal: Deal,
    /// Tickets of each worker's share.
    pub next_ticket: Vec<NextTicket>,
    /// Payloads that workers panicked with in the current job, in that order.
    panics: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Team {
    /// Team of `n` workers of a pool, on `cpus` CPUs.
    pub fn new(pool: u64, n: usize, cpus: usize) -> Team {
        Team {
            pool,
            n,
            cpus,
            handover: Handover::new(n),
            barrier: Barrier::new(),
            slept_ns: AtomicU64::new(0),
            phase: AtomicU64::new(0),
            deal: Deal::default(),
            next_ticket: (0..n).map(|_| NextTicket::default()).collect(),
            panics: Mutex::new(Vec::new()),
        }
    }

    /// Runs `f` as worker 0, and sends the other workers home however it ends.
    pub fn lead<R>(&self, f: impl FnOnce(&Leader<'_>) -> R) -> R {
        let size = RefCell::new(TeamSize::new(self.n, self.cpus));
        let leader = Leader { worker: Worker::new(self, 0), size };
        let _dismissal = Dismissal(self);
        f(&leader)
    }

    /// Does jobs as worker `index` until it is sent home.
    pub fn follow(&self, index: usize) {
        let worker = Worker::new(self, index);
        let mut last = 0;
        loop {
            let handed =
                self.handover.next(index, last, self.spins(&worker), || worker.ask_ahead());
            last = handed.number;
            if handed.job.is_null() {
                return;
            }
            // SAFETY: the leader announced the addresses of a job and of the pointer to it, and
            // keeps both until this worker, as one of the `n_active`, has left the job.
            unsafe { worker.take_part(*handed.job, handed.n_active) };
        }
    }

    /// Rounds that a worker spins before it sleeps.
    fn spins(&self, worker: &Worker<'_>) -> u32 {
        if worker.n_threads() > self.cpus { 0 } else { SPINS }
    }

    /// Waits for all workers of the job at the end of a phase; the last to arrive opens a new one.
    pub fn end_phase(&self, worker: &Worker<'_>) -> Result<(), Broken> {
        let ended = self.barrier.n_phases();
        // For the next phase; the one before this, which used it last, has ended for everybody.
        self.next_ticket[worker.index()].rewind(parity(ended + 1));
        let (n, spins) = (worker.n_threads(), self.spins(worker));
        let slept = self.barrier.pass(n, spins, || worker.ask_ahead(), || self.open_phase())?;
        if !slept.is_zero() {
            self.slept_ns.fetch_add(slept.as_nanos() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn open_phase(&self) {
        self.phase.store(next_phase(), Ordering::Relaxed);
        self.deal.clear();
    }

    fn panics(&self) -> std::sync::MutexGuard<'_, Vec<Box<dyn Any + Send>>> {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker<'_> {
    /// Does this worker's part of a job of `n_active` workers. A panic breaks the barrier and is
    /// kept for the leader.
    ///
    /// # Safety
    /// The job lives until this worker has left it. (A pointer, as a reference would promise that
    /// it lives until this function returns.)
    unsafe fn take_part(&self, job: *const Job<'static>, n_active: usize) {
        self.enter_job(n_active);
        let _departure = Departure { team: self.team, n_active };
        // SAFETY: the job lives, as this worker has not left it.
        let run = AssertUnwindSafe(|| unsafe { (*job)(self) });
        if let Err(payload) = catch_unwind(run) {
            if !payload.is::<Aborted>() {
                self.team.panics().push(payload);
            }
            self.team.barrier.break_down(Broken::Panicked);
        }
    }
}

/// Leaves the job when dropped.
struct Departure<'a> {
    team: &'a Team,
    n_active: usize,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.team.barrier.leave(self.n_active);
    }
}

/// Sends the workers home when dropped.
struct Dismissal<'a>(&'a Team);

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        self.0.handover.announce(ptr::null(), self.0.n);
    }
}

/// Loan of a job to the workers: its drop waits until all of them have left the job.
#[must_use]
struct Loan<'a> {
    worker: &'a Worker<'a>,
    n_active: usize,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let (team, worker) = (self.worker.team, self.worker);
        let spins = team.spins(worker);
        team.barrier.wait_for_all_to_leave(self.n_active, spins, || worker.ask_ahead());
    }
}

/// Calls shared out among the workers as the tickets of one phase.
impl Workers for Leader<'_> {
    fn each(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        if n <= 1 || self.n_threads() == 1 {
            return (0..n).for_each(f);
        }
        self.run(&|worker| {
            worker.phase(|phase| phase.tickets(n, 1).for_each(|ticket| ticket.items().for_each(f)));
        });
    }
}

impl fmt::Debug for Leader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("n_threads", &self.n_threads()).finish_non_exhaustive()
    }
}

/// Worker that runs the code between the jobs and starts them.
pub struct Leader<'a> {
    worker: Worker<'a>,
    size: RefCell<TeamSize>,
}

impl Leader<'_> {
    /// Number of workers of the next job: fewer than the pool's while the machine is busy.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.size.borrow().n_active()
    }

    /// Runs `job` on [`Leader::n_threads`] workers, this one included, and returns when all have
    /// left it.
    ///
    /// # Panics
    /// With the first panic of a worker, when all have left the job; then the next job runs as if
    /// this one had not been. If workers run different numbers of phases.
    pub(crate) fn run(&self, job: &Job<'_>) {
        let team = self.worker.team;
        let n_active = self.n_threads();
        let job: *const Job<'_> = job;
        // SAFETY: only the lifetime changes. Workers use the pointer until they have left the job,
        // and `loan` waits for that before this function returns or unwinds.
        let job: *const Job<'static> = unsafe { std::mem::transmute(job) };
        let start = Instant::now();
        team.open_phase();
        // Nobody draws tickets between jobs, and parked workers do not rewind theirs.
        for next in &team.next_ticket {
            (0..2).for_each(|parity| next.rewind(parity));
        }
        team.handover.announce(&job, n_active);
        let loan = Loan { worker: &self.worker, n_active };
        // SAFETY: `job` is borrowed until the end of this function.
        unsafe { self.worker.take_part(job, n_active) };
        drop(loan);
        self.end_job(start);
    }

    /// Judges a job that all workers have left.
    fn end_job(&self, start: Instant) {
        let team = self.worker.team;
        let slept = Duration::from_nanos(team.slept_ns.swap(0, Ordering::Relaxed));
        if team.barrier.mend().is_err() {
            let mut panics = std::mem::take(&mut *team.panics()).into_iter();
            match panics.next() {
                Some(payload) => resume_unwind(payload),
                None => panic!("{UNEVEN}"),
            }
        }
        let now = Instant::now();
        self.size.borrow_mut().note(now, now - start, slept);
    }
}
