//! Steps: batches laid out, run and taken back.

use super::{Core, Outputs, SequenceChunk, StepError};
use crate::backend::pages::StateSlot;
use crate::backend::program::Program;
use crate::backend::{Executor, LogitRows, Observer, StepInput, Unfinished};
use crate::kv::{PagePool, SeqId};
use std::sync::atomic::AtomicBool;

/// A decoder whose workers are gathered: it makes steps.
pub struct Stepper<'a> {
    pub(super) executor: &'a mut dyn Executor,
    pub(super) core: &'a mut Core,
}

impl Stepper<'_> {
    /// Number of token ids.
    pub fn n_vocab(&self) -> usize {
        self.core.program.n_vocab
    }

    /// Length of a row of results: of logits, or of the vectors that the model gives instead.
    pub fn n_out(&self) -> usize {
        self.core.program.n_out
    }

    /// Tokens that fit one step.
    pub fn max_batch(&self) -> usize {
        self.core.max_batch
    }

    /// Rows of results that one step can give.
    pub fn max_outputs(&self) -> usize {
        self.core.max_outputs
    }

    /// Bytes of weights that decoding has repacked so far, and that it will have in the end.
    pub fn repacked_bytes(&self) -> [usize; 2] {
        self.executor.repacked_bytes()
    }

    /// Program that the steps run.
    pub fn program(&self) -> &Program {
        &self.core.program
    }

    /// The sequences.
    pub fn kv(&self) -> &PagePool {
        &self.core.kv
    }

    /// The sequences.
    pub fn kv_mut(&mut self) -> &mut PagePool {
        &mut self.core.kv
    }

    /// Computes those of the tokens that a sequence, which begins with them, does not hold: after
    /// [`StepError::Moved`] all of them.
    ///
    /// # Errors
    /// A step is refused; those before it were made.
    pub fn catch_up(&mut self, sequence: SeqId, tokens: &[u32]) -> Result<(), StepError> {
        let max_batch = self.max_batch();
        let known = self.kv().len(sequence).min(tokens.len());
        for tokens in tokens[known..].chunks(max_batch) {
            self.step(&[SequenceChunk { sequence, tokens, outputs: Outputs::None }])?;
        }
        Ok(())
    }

    /// Feeds tokens to one or more sequences. Returns the results that were asked for, in the order
    /// of the chunks and their tokens, `[outputs][n_out]`.
    ///
    /// # Errors
    /// The step is refused; nothing has changed then.
    pub fn step(&mut self, chunks: &[SequenceChunk<'_>]) -> Result<&mut [f32], StepError> {
        self.run(chunks, false, None, None)?;
        let n = self.core.outputs.len() * self.core.program.n_out;
        Ok(&mut self.executor.results().rows[..n])
    }

    /// [`Stepper::step`] whose products an observer sees the inputs of: the same bits, and about a
    /// phase more for each operation that multiplies.
    ///
    /// # Errors
    /// The step is refused; nothing has changed then, and nothing was shown.
    pub fn step_observed(
        &mut self,
        chunks: &[SequenceChunk<'_>],
        observer: &mut dyn Observer,
    ) -> Result<&mut [f32], StepError> {
        self.run(chunks, false, None, Some(observer))?;
        let n = self.core.outputs.len() * self.core.program.n_out;
        Ok(&mut self.executor.results().rows[..n])
    }

    /// A [`Stepper::step`] that gives logits of which the largest are to be found: the workers take
    /// the maxima of blocks while those are in their caches. `cancel` ends the step within about
    /// one layer's time, as if it had not been made; where a model has recurrent states, only a
    /// step that is more than one token for each sequence, as a copy of the states is made for that.
    ///
    /// # Errors
    /// The step is refused or cancelled; nothing has changed then.
    ///
    /// # Panics
    /// If the model gives vectors.
    pub fn step_with_maxima<'s>(
        &'s mut self,
        chunks: &[SequenceChunk<'_>],
        cancel: Option<&AtomicBool>,
    ) -> Result<LogitRows<'s>, StepError> {
        assert!(self.program().gives_logits(), "maxima are of logits");
        self.run(chunks, true, cancel, None)?;
        let n = self.core.outputs.len();
        Ok(self.executor.results().with_maxima(n))
    }

    /// Makes a step, with or without maxima.
    fn run(
        &mut self,
        chunks: &[SequenceChunk<'_>],
        maxima: bool,
        cancel: Option<&AtomicBool>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<(), StepError> {
        let core = &mut *self.core;
        core.gather(chunks)?;
        let is_decode = chunks.iter().all(|chunk| chunk.tokens.len() <= 1);
        let can_undo = core.program.states.is_empty() || !is_decode;
        let cancel = cancel.filter(|_| can_undo && core.kv.make_restorable());
        let tables = chunks.iter().filter_map(|chunk| core.kv.table(chunk.sequence));
        let tables: Vec<&[_]> = tables.map(|table| &table[..]).collect();
        // A chunk without tokens may have no states, and none of the batch's tokens is of it.
        let none = StateSlot(u32::MAX);
        let states = chunks.iter().map(|chunk| core.kv.states(chunk.sequence).unwrap_or(none));
        let states: Vec<StateSlot> = states.collect();
        let input = StepInput {
            tokens: &core.tokens,
            positions: &core.positions,
            sequence: &core.sequence,
            tables: &tables,
            states: &states,
            fills: core.kv.fills(),
            outputs: &core.outputs,
            maxima,
        };
        if let Err(error) = self.executor.prepare(core.kv.ops(), &input) {
            core.kv.unreserve();
            return Err(self.broken_off(error));
        }
        if !core.tokens.is_empty() {
            for range in &core.ranges {
                let observer =
                    observer.as_deref_mut().map(|observer| observer as &mut dyn Observer);
                let ran = self.executor.run(range.clone(), &input, cancel, observer);
                let Err(error) = ran else { continue };
                let is_exact = core.kv.undo();
                let is_cancelled = error == Unfinished::Cancelled;
                debug_assert!(is_exact || !is_cancelled, "cancelled steps were made restorable");
                return Err(self.broken_off(error));
            }
        }
        core.kv.commit();
        Ok(())
    }

    /// The error of what the backend has not done. If pages are elsewhere now, what they held is forgotten.
    pub(super) fn broken_off(&mut self, error: Unfinished) -> StepError {
        if matches!(error, Unfinished::Moved(_)) {
            self.core.kv.forget_all();
        }
        error.into()
    }
}

impl Core {
    /// Lays out the batch and takes pages for it.
    fn gather(&mut self, chunks: &[SequenceChunk<'_>]) -> Result<(), StepError> {
        self.tokens.clear();
        self.positions.clear();
        self.sequence.clear();
        self.outputs.clear();
        let n_vocab = self.program.n_vocab;
        for (i, chunk) in chunks.iter().enumerate() {
            if chunks[..i].iter().any(|other| other.sequence == chunk.sequence) {
                return Err(StepError::SequenceTwice);
            }
            let bad = chunk.tokens.iter().find(|&&id| id as usize >= n_vocab);
            if let Some(&id) = bad {
                return Err(StepError::TokenId { id, n_vocab });
            }
            let (start, first) = (self.kv.len(chunk.sequence), self.tokens.len());
            if start > 0 && self.program.bidirectional {
                return Err(StepError::Continued);
            }
            self.tokens.extend(chunk.tokens);
            self.positions.extend((start..start + chunk.tokens.len()).map(|p| p as u32));
            self.sequence.extend(chunk.tokens.iter().map(|_| i as u32));
            let end = self.tokens.len();
            let outputs = match chunk.outputs {
                Outputs::None => end..end,
                Outputs::First => first..end.min(first + 1),
                Outputs::Last => end.saturating_sub(1).max(first)..end,
                Outputs::All => first..end,
            };
            self.outputs.extend(outputs.map(|t| t as u32));
        }
        let (max_batch, max_outputs) = (self.max_batch, self.max_outputs);
        if self.tokens.len() > max_batch || self.outputs.len() > max_outputs {
            return Err(StepError::BatchTooLarge { max_batch, max_outputs });
        }
        let lens: Vec<_> =
            chunks.iter().map(|chunk| (chunk.sequence, chunk.tokens.len())).collect();
        Ok(self.kv.reserve(&lens)?)
    }
}
