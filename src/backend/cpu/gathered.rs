//! The CPU's side of the backend seam: a program's buffers and the pool of workers that run it.

use super::pool::{Leader, Pool};
use super::{CpuBackend, topology};
use crate::backend::pages::{CacheOp, PageId, StateSlot};
use crate::backend::program::{Buf, Program};
use crate::backend::{
    Backend, BackendOptions, Executor, Observer, Results, StartError, StepInput, Unfinished,
};
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
use crate::workers::Workers;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The CPUs of this machine, with a program to run.
pub struct Cpu {
    pool: Pool,
    backend: CpuBackend,
}

impl Cpu {
    /// Starts the workers and makes the buffers.
    ///
    /// # Errors
    /// Worker threads could not be started, or there is no memory for the buffers.
    ///
    /// # Panics
    /// If a weight's type has no kernel.
    pub fn start(program: Program, options: &BackendOptions) -> Result<Cpu, StartError> {
        Cpu::start_part(Arc::new(program), options, &|_| true)
    }

    /// [`Cpu::start`] for the operations of a program for which `is_here` holds: no others are run.
    ///
    /// # Errors
    /// As [`Cpu::start`].
    ///
    /// # Panics
    /// As [`Cpu::start`].
    pub fn start_part(
        program: Arc<Program>,
        options: &BackendOptions,
        is_here: &dyn Fn(usize) -> bool,
    ) -> Result<Cpu, StartError> {
        let pool = match options.cpus {
            Some(cpus) => Pool::pinned(cpus),
            None => Pool::new(options.threads.unwrap_or_else(topology::default_threads)),
        }?;
        let backend = CpuBackend::new(program, options, pool.n_threads(), is_here)?;
        Ok(Cpu { pool, backend })
    }
}

impl Cpu {
    /// [`Backend::lead`] for those who know that these are the CPUs.
    pub fn gather(&mut self, f: &mut (dyn FnMut(&mut Gathered<'_>) + Send)) {
        let backend = &mut self.backend;
        self.pool.lead(|leader| f(&mut Gathered { backend, leader }));
    }
}

impl Backend for Cpu {
    fn program(&self) -> &Arc<Program> {
        self.backend.program()
    }

    fn max_tokens(&self) -> usize {
        self.backend.max_tokens()
    }

    fn max_outputs(&self) -> usize {
        self.backend.max_outputs()
    }

    fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    fn lock_weights(&self) -> std::io::Result<()> {
        self.backend.lock_weights()
    }

    fn lead(&mut self, f: &mut (dyn FnMut(&mut dyn Executor) + Send)) {
        self.gather(&mut |gathered| f(gathered));
    }
}

/// The CPUs while their workers are gathered.
pub struct Gathered<'a> {
    backend: &'a mut CpuBackend,
    leader: &'a Leader<'a>,
}

#[cfg(any(feature = "gpu", target_vendor = "apple"))]
impl Gathered<'_> {
    /// Runs all operations from the next step on. Pages and states hold anything then.
    pub fn take_over(&mut self) {
        self.backend.take_over();
    }

    /// The workers, who are idle between two steps.
    pub fn workers(&self) -> &dyn Workers {
        self.leader
    }
}

impl Executor for Gathered<'_> {
    fn prepare(&mut self, ops: &[CacheOp], input: &StepInput<'_>) -> Result<(), Unfinished> {
        Ok(self.backend.prepare(ops, input)?)
    }

    fn read_rows(&mut self, buf: Buf, n: usize, rows: &mut Vec<f32>) -> Result<(), Unfinished> {
        let buffer = &mut self.backend.buffers[buf.0];
        let len = n * buffer.width();
        rows.extend_from_slice(&buffer.get_mut()[..len]);
        Ok(())
    }

    fn write_rows(&mut self, buf: Buf, rows: &[f32]) -> Result<(), Unfinished> {
        self.backend.buffers[buf.0].get_mut()[..rows.len()].copy_from_slice(rows);
        Ok(())
    }

    fn run(
        &mut self,
        ops: Range<usize>,
        input: &StepInput<'_>,
        cancel: Option<&AtomicBool>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), Unfinished> {
        self.backend.run(self.leader, ops, input, cancel, observer)
    }

    fn read_page(
        &mut self,
        group: usize,
        page: PageId,
        n: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfinished> {
        self.backend.arena.store(group, page, n, out);
        Ok(())
    }

    fn write_page(&mut self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), Unfinished> {
        Ok(self.backend.arena.restore(group, page, bytes)?)
    }

    fn read_states(&mut self, slot: StateSlot, out: &mut Vec<u8>) {
        self.backend.states.store(slot, out);
    }

    fn write_states(&mut self, slot: StateSlot, bytes: &[u8]) -> Result<(), Unfinished> {
        Ok(self.backend.states.restore(slot, bytes)?)
    }

    fn results(&mut self) -> Results<'_> {
        self.backend.results(self.leader)
    }

    fn repacked_bytes(&self) -> [usize; 2] {
        self.backend.interleaved_bytes()
    }
}
