//! One worker's view of a job: its index, its share, and the phases it goes through.

use super::barrier::Broken;
use super::mode::PhaseId;
use super::team::Team;
use super::ticket::{Phase, parity, share};
use std::cell::Cell;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::Ordering;
use teff_kernels::{Ahead, FloatOps};

/// Cache lines that a worker asks for in a round of spinning: about as fast as memory delivers.
const LINES_PER_SPIN: usize = 4;
/// Message of the panic of a job whose workers ran different numbers of phases.
pub(super) const UNEVEN: &str = "the workers of a job ran different numbers of phases";

/// Payload of a worker that leaves its job because another one panicked: no failure of its own.
pub(super) struct Aborted;

/// A worker inside a job. Not `Sync`, nor is a [`Leader`](super::Leader): jobs cannot start jobs.
pub struct Worker<'a> {
    pub(super) team: &'a Team,
    index: usize,
    /// Workers of the current job.
    n_active: Cell<usize>,
    /// Inside a phase.
    in_phase: Cell<bool>,
    /// Memory that a coming phase reads, see [`Worker::expect`].
    ahead: Cell<Option<(&'static FloatOps, Ahead)>>,
}

impl<'a> Worker<'a> {
    /// Worker `index` of the team, without a job.
    pub(super) fn new(team: &'a Team, index: usize) -> Worker<'a> {
        Worker {
            team,
            index,
            n_active: Cell::new(team.n),
            in_phase: Cell::new(false),
            ahead: Cell::new(None),
        }
    }

    /// Begins a job of `n_active` workers.
    pub(super) fn enter_job(&self, n_active: usize) {
        self.n_active.set(n_active);
        self.in_phase.set(false);
    }

    /// Number of this worker, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers in the job.
    pub fn n_threads(&self) -> usize {
        self.n_active.get()
    }

    /// Items that are this worker's own of `phase.tickets(n_items, chunk)`.
    pub fn share(&self, n_items: usize, chunk: usize) -> Range<usize> {
        share(n_items, chunk, self.index, self.n_threads())
    }

    /// Says what this worker reads in one of the coming phases: it asks for that while it waits for
    /// others, when memory is idle.
    pub fn expect(&self, ops: &'static FloatOps, ahead: Ahead) {
        self.ahead.set(Some((ops, ahead)));
    }

    /// Asks for some more of what is expected.
    pub(super) fn ask_ahead(&self) {
        if let Some((ops, mut ahead)) = self.ahead.get() {
            ops.prefetch_ahead(ahead.split_off(LINES_PER_SPIN));
            self.ahead.set(Some((ops, ahead)));
        }
    }

    /// Runs one phase: all workers enter it, share its tickets, and leave it together.
    ///
    /// # Panics
    /// Inside another phase: its tickets would outlive the barrier at which they end. If another
    /// worker of the job panics, or leaves the job without this phase.
    pub fn phase(&self, f: impl FnOnce(&Phase<'_>)) {
        assert!(!self.in_phase.replace(true), "phases do not nest");
        let id = PhaseId { number: self.team.phase.load(Ordering::Relaxed), pool: self.team.pool };
        f(&Phase::new(self, parity(self.team.barrier.n_phases()), id));
        self.in_phase.set(false);
        match self.team.end_phase(self) {
            Ok(()) => (),
            Err(Broken::Panicked) => resume_unwind(Box::new(Aborted)),
            Err(Broken::Uneven) => panic!("{UNEVEN}"),
        }
    }
}
