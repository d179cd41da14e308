//! A backend that asks a hook before each call of its executor, for tests of what goes wrong in steps.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use teff::backend::pages::{CacheOp, PageId, StateSlot};
use teff::backend::program::{Buf, Program};
use teff::backend::{Backend, Executor, Observer, Results, StepInput, Unfinished};
use teff::tensor::memory::OutOfMemory;

/// What happens before the calls of an executor. An error is returned in place of the call.
pub trait Hook: Send + Sync {
    fn before_prepare(&self) -> Result<(), OutOfMemory> {
        Ok(())
    }

    /// `executor` is there for a step that is to fail in its middle.
    fn before_run(
        &self,
        executor: &mut dyn Executor,
        ops: Range<usize>,
        input: &StepInput<'_>,
    ) -> Result<(), Unfinished>;
}

/// A backend with a hook.
pub struct Hooked {
    pub inner: Box<dyn Backend>,
    pub hook: Arc<dyn Hook>,
}

struct HookedExecutor<'a> {
    inner: &'a mut dyn Executor,
    hook: &'a dyn Hook,
}

impl Backend for Hooked {
    fn program(&self) -> &Arc<Program> {
        self.inner.program()
    }

    fn max_tokens(&self) -> usize {
        self.inner.max_tokens()
    }

    fn max_outputs(&self) -> usize {
        self.inner.max_outputs()
    }

    fn n_threads(&self) -> usize {
        self.inner.n_threads()
    }

    fn lock_weights(&self) -> std::io::Result<()> {
        self.inner.lock_weights()
    }

    fn lead(&mut self, f: &mut (dyn FnMut(&mut dyn Executor) + Send)) {
        let hook = &*self.hook;
        self.inner.lead(&mut |inner| f(&mut HookedExecutor { inner, hook }));
    }
}

impl Executor for HookedExecutor<'_> {
    fn prepare(&mut self, ops: &[CacheOp], input: &StepInput<'_>) -> Result<(), Unfinished> {
        self.hook.before_prepare()?;
        self.inner.prepare(ops, input)
    }

    fn run(
        &mut self,
        ops: Range<usize>,
        input: &StepInput<'_>,
        cancel: Option<&AtomicBool>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), Unfinished> {
        self.hook.before_run(self.inner, ops.clone(), input)?;
        self.inner.run(ops, input, cancel, observer)
    }

    fn read_rows(&mut self, buf: Buf, n: usize, rows: &mut Vec<f32>) -> Result<(), Unfinished> {
        self.inner.read_rows(buf, n, rows)
    }

    fn write_rows(&mut self, buf: Buf, rows: &[f32]) -> Result<(), Unfinished> {
        self.inner.write_rows(buf, rows)
    }

    fn read_page(
        &mut self,
        group: usize,
        page: PageId,
        n: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfinished> {
        self.inner.read_page(group, page, n, out)
    }

    fn write_page(&mut self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), Unfinished> {
        self.inner.write_page(group, page, bytes)
    }

    fn read_states(&mut self, slot: StateSlot, out: &mut Vec<u8>) {
        self.inner.read_states(slot, out);
    }

    fn write_states(&mut self, slot: StateSlot, bytes: &[u8]) -> Result<(), Unfinished> {
        self.inner.write_states(slot, bytes)
    }

    fn results(&mut self) -> Results<'_> {
        self.inner.results()
    }

    fn repacked_bytes(&self) -> [usize; 2] {
        self.inner.repacked_bytes()
    }
}
