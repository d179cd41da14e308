//! A model whose answers another is to give.

use super::TuneError;
use super::machine::zeros;
use crate::decoder::{Outputs, SequenceChunk};
use crate::engine::{Engine, EngineError, EngineOptions, Model};

/// Bytes of logits that a step gives.
const LOGITS_BYTES: usize = 64 << 20;

/// A teacher, made ready.
pub struct TeacherModel {
    engine: Engine,
}

impl TeacherModel {
    /// Makes a model ready for sequences of `n_ctx` tokens.
    ///
    /// # Errors
    /// The teacher cannot be made ready.
    pub fn new(
        model: &Model,
        n_ctx: usize,
        base: &EngineOptions,
    ) -> Result<TeacherModel, TuneError> {
        let n_vocab = model.file().tensor("token_embd.weight").map_or(1, |info| info.rows());
        let row_bytes = usize::try_from(n_vocab).unwrap_or(usize::MAX).saturating_mul(4).max(1);
        let max_outputs = (LOGITS_BYTES / row_bytes).clamp(1, base.max_batch.max(1));
        let (n_ctx, repack) = (Some(n_ctx), false);
        let options = EngineOptions { n_ctx, max_outputs, repack, ..*base };
        let engine = Engine::new(model, &options).map_err(TuneError::Teacher)?;
        Ok(TeacherModel { engine })
    }

    /// Refuses a model of another vocabulary.
    ///
    /// # Errors
    /// [`TuneError::Vocabulary`]
    pub fn check(&self, n_vocab: usize) -> Result<(), TuneError> {
        match self.engine.decoder().n_out() {
            teacher if teacher == n_vocab => Ok(()),
            teacher => Err(TuneError::Vocabulary { model: n_vocab, teacher }),
        }
    }

    /// The logits behind each token but the last, `[tokens - 1][n_vocab]`.
    ///
    /// # Errors
    /// The model cannot run them, or there is no memory.
    pub fn rows(&mut self, tokens: &[u32]) -> Result<Vec<f32>, TuneError> {
        let tokens = &tokens[..tokens.len().saturating_sub(1)];
        let n_vocab = self.engine.decoder().n_out();
        let mut rows = zeros(tokens.len() * n_vocab)?;
        let mut left = &mut rows[..];
        let stepped = self.engine.lead(|stepper| {
            let sequence = stepper.kv_mut().create();
            let n = stepper.max_batch().min(stepper.max_outputs());
            let result = tokens.chunks(n).try_for_each(|tokens| {
                let chunk = SequenceChunk { sequence, tokens, outputs: Outputs::All };
                let made = stepper.step(&[chunk])?;
                let (own, others) = std::mem::take(&mut left).split_at_mut(made.len());
                own.copy_from_slice(made);
                left = others;
                Ok(())
            });
            stepper.kv_mut().remove(sequence);
            result
        });
        stepped.map_err(|error| TuneError::Teacher(EngineError::Step(error)))?;
        Ok(rows)
    }
}
