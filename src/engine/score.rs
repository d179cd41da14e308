//! Scores of a text: how likely each of its tokens is behind those before it.
//!
//! The text goes through the decoder in parts as long as there are rows of logits, one part between two
//! steps of others, so that a long text makes nobody's answer stutter. Its pages are given back.

use super::request::CancelToken;
use super::runner::Runner;
use super::{EngineError, FinishReason};
use crate::decoder::{Outputs, SequenceChunk, StepError, Stepper};
use crate::kv::SeqId;
use crate::sample::{LOGPROBS_MAX, Logprobs};

impl Runner {
    /// Log-probabilities of all tokens but the first, each with the `n_top` likeliest in its place; or
    /// [`FinishReason::Cancelled`] in their place. Waits for the runner's thread.
    ///
    /// # Errors
    /// The text is empty, or longer than the context, or has unknown tokens, or there is no memory for it.
    pub fn score(
        &self,
        tokens: &[u32],
        n_top: usize,
        cancel: &CancelToken,
    ) -> Result<Result<Vec<Logprobs>, FinishReason>, EngineError> {
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if n_top > LOGPROBS_MAX {
            return Err(EngineError::TooManyLogprobs { n_top });
        }
        let n_prompt = tokens.len();
        let (sequence, n_part, n_ctx) = self.call(|stepper| {
            (stepper.kv_mut().create(), stepper.max_outputs(), stepper.kv().n_ctx())
        })?;
        let result = match n_prompt > n_ctx {
            true => Err(EngineError::PromptTooLong { n_prompt, n_ctx }),
            false => self.score_parts(sequence, n_part.max(1), tokens, n_top, cancel),
        };
        self.call(move |stepper| stepper.kv_mut().remove(sequence))?;
        result
    }

    fn score_parts(
        &self,
        sequence: SeqId,
        n_part: usize,
        tokens: &[u32],
        n_top: usize,
        cancel: &CancelToken,
    ) -> Result<Result<Vec<Logprobs>, FinishReason>, EngineError> {
        let mut scores = Vec::with_capacity(tokens.len());
        // Nobody asks what comes behind the last one.
        for start in (0..tokens.len() - 1).step_by(n_part) {
            if cancel.is_cancelled() {
                return Ok(Err(FinishReason::Cancelled));
            }
            let end = (start + n_part).min(tokens.len() - 1);
            let so_far = tokens[..=end].to_vec();
            let more =
                self.call(move |stepper| score_part(stepper, sequence, &so_far, start, n_top))?;
            scores.extend(more?);
        }
        Ok(Ok(scores))
    }
}

/// Scores of a text's tokens behind the one at `start`, of which those before it are the sequence's.
fn score_part(
    stepper: &mut Stepper<'_>,
    sequence: SeqId,
    text: &[u32],
    start: usize,
    n_top: usize,
) -> Result<Vec<Logprobs>, EngineError> {
    let n_out = stepper.n_out();
    let (known, part) = text.split_at(start);
    let Some((_, tokens)) = part.split_last() else { return Ok(Vec::new()) };
    let mut compute = || {
        // A device that was lost has taken them along.
        stepper.catch_up(sequence, known)?;
        let rows = stepper.step(&[SequenceChunk { sequence, tokens, outputs: Outputs::All }])?;
        let rows = rows.chunks_exact(n_out).zip(&part[1..]);
        Ok(rows.map(|(row, &token)| Logprobs::of(row, token, n_top)).collect())
    };
    let scores = match compute() {
        Err(StepError::Moved(_)) => compute(),
        scores => scores,
    };
    scores.map_err(EngineError::Step)
}
