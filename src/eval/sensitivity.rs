//! Sensitivity of a model to changes of its weights: the divergence of its answers on a text once
//! some weights are others.
//!
//! The answers of the model as it is are computed once and kept in memory, 4 bytes for each token of
//! the vocabulary at each scored position. Each change then costs the text at the prompt's speed.
//! All but the first positions of a chunk count, so that a short text gives many.

use super::perplexity::check_tokens;
use super::rows::score_rows;
use super::steps::{self, Room, Run};
use super::{Chunks, EvalError};
use crate::engine::{Engine, EngineError, EngineOptions, Model};
use crate::tensor::{Weight, memory};
use teff_kernels::KernelTable;

/// Part of a chunk that is not scored: there a model has seen next to nothing.
const UNSCORED_PART: usize = 8;

/// A model and its answers on a text.
pub struct Sensitivity<'a> {
    model: &'a mut Model,
    chunks: &'a Chunks,
    options: EngineOptions,
    /// Logits `[positions][n_vocab]` of each chunk.
    answers: Vec<Vec<f32>>,
}

impl<'a> Sensitivity<'a> {
    /// Computes the answers of a model; `options` are those of
    /// [`engine_options`](super::engine_options).
    ///
    /// # Errors
    /// The model cannot run the chunks, or there is no memory for its answers.
    pub fn new(
        model: &'a mut Model,
        chunks: &'a Chunks,
        options: EngineOptions,
    ) -> Result<Sensitivity<'a>, EvalError> {
        model.replace_weights(Vec::new());
        let mut own = Sensitivity { model, chunks, options, answers: Vec::new() };
        let mut answers = Vec::new();
        own.run(&mut |_, _, rows| {
            let mut kept = Vec::new();
            memory::reserve(&mut kept, rows.len(), "the model's logits")
                .map_err(|error| EvalError::Engine(EngineError::Memory(error)))?;
            kept.extend_from_slice(rows);
            answers.push(kept);
            Ok(())
        })?;
        own.answers = answers;
        Ok(own)
    }

    /// Mean divergence, in nats, of the model with these weights in place of its own from the model
    /// as it is.
    ///
    /// # Errors
    /// The weights are of other shapes, or logits are no numbers.
    pub fn divergence(&mut self, weights: Vec<Weight>) -> Result<f64, EvalError> {
        self.model.replace_weights(weights);
        let answers = std::mem::take(&mut self.answers);
        let ops = KernelTable::detect().float();
        let (mut sum, mut n, mut step) = (0.0, 0_usize, 0);
        let result = self.run(&mut |n_threads, tokens, rows| {
            for score in score_rows(rows, tokens, Some(&answers[step]), ops, n_threads)? {
                sum += score.beside.map_or(0.0, |beside| beside.kl);
                n += 1;
            }
            step += 1;
            Ok(())
        });
        self.answers = answers;
        self.model.replace_weights(Vec::new());
        result?;
        match sum.is_finite() {
            true => Ok(sum / n.max(1) as f64),
            false => Err(EvalError::NotFinite { chunk: 0, position: 0 }),
        }
    }

    /// Runs the chunks, one after the other, and hands over the rows of each step with the tokens
    /// that follow them.
    fn run(&mut self, rows: &mut OnRows<'_>) -> Result<(), EvalError> {
        let mut engine = Engine::new(self.model, &self.options).map_err(EvalError::Engine)?;
        check_tokens(self.chunks.iter().flatten(), engine.decoder().n_out())?;
        let (room, n_threads) = (Room::of(&engine), engine.n_threads());
        let wanted_from = self.chunks.n_ctx() / UNSCORED_PART;
        for tokens in self.chunks.iter() {
            let runs = [Run { tokens: &tokens[..tokens.len() - 1], wanted_from }];
            let sequences = steps::create(&mut engine, 1);
            for pieces in steps::plan(&runs, room) {
                let wanted = pieces.iter().filter(|piece| piece.wanted);
                let targets: Vec<u32> =
                    wanted.flat_map(|p| &tokens[p.at.start + 1..p.at.end + 1]).copied().collect();
                engine.lead(|stepper| {
                    let found = steps::step(stepper, &sequences, &runs, &pieces)?;
                    if targets.is_empty() { Ok(()) } else { rows(n_threads, &targets, found) }
                })?;
            }
            steps::remove(&mut engine, &sequences);
        }
        Ok(())
    }
}

/// Takes the number of threads, the tokens that follow rows, and the rows.
type OnRows<'a> = dyn FnMut(usize, &[u32], &[f32]) -> Result<(), EvalError> + Send + 'a;
