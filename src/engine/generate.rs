//! One request from its prompt to its last token.

use super::{Engine, EngineError};
use crate::decoder::{Outputs, SequenceChunk, StepError, Stepper};
use crate::kv::{KvError, SeqId};
use crate::sample::{SampleParams, SamplerChain};
use crate::text::Tokenizer;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// How tokens are drawn.
    pub sampling: SampleParams,
}

/// What the caller is told while a request runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenEvent {
    /// A part of the prompt is computed.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens in the prompt.
        total: usize,
    },
    /// The next token of the answer. The token that ends it is not told.
    Token(u32),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said so.
    EndOfGeneration,
    /// The requested number of tokens is reached.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The budget of the KV cache is used up, by this request and others.
    OutOfMemory,
    /// The caller stopped it.
    Cancelled,
}

/// How a request went.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Tokens in the prompt.
    pub n_prompt: usize,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Tokens generated, the ending one included.
    pub n_generated: usize,
    /// Time for all generated tokens but the first, which the prompt's logits gave.
    pub generate_time: Duration,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Engine {
    /// Answers one request. `tokenizer` says which tokens end an answer; without one, none do.
    /// `cancel` is looked at after every step and, about once for each layer, in it; `tell` may also
    /// stop the answer.
    pub fn generate(
        &mut self,
        request: &Request,
        tokenizer: Option<&Tokenizer>,
        cancel: &AtomicBool,
        tell: &mut (dyn FnMut(TokenEvent) -> ControlFlow<()> + Send),
    ) -> Result<Stats, EngineError> {
        if self.decoder.program().bidirectional || !self.decoder.program().gives_logits() {
            return Err(EngineError::NoLogits);
        }
        let mut sampler =
            SamplerChain::new(request.sampling.clone()).map_err(EngineError::Sample)?;
        let ends = |id: u32| tokenizer.is_some_and(|t| t.is_end_of_generation(id));
        self.lead(|decoder| {
            let sequence = decoder.kv_mut().create();
            let mut answer = Answer { decoder, sequence, cancel, tell };
            let stats = answer.run(request, &mut sampler, &ends);
            decoder.kv_mut().remove(sequence);
            stats
        })
    }
}

struct Answer<'a, 'd> {
    decoder: &'a mut Stepper<'d>,
    sequence: SeqId,
    cancel: &'a AtomicBool,
    tell: &'a mut (dyn FnMut(TokenEvent) -> ControlFlow<()> + Send),
}

impl Answer<'_, '_> {
    fn run(
        &mut self,
        request: &Request,
        sampler: &mut SamplerChain,
        ends: &dyn Fn(u32) -> bool,
    ) -> Result<Stats, EngineError> {
        let start = Instant::now();
        let mut stats = Stats {
            n_prompt: request.prompt.len(),
            prompt_time: Duration::ZERO,
            n_generated: 0,
            generate_time: Duration::ZERO,
            finish: FinishReason::Cancelled,
        };
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let n_ctx = self.decoder.kv().n_ctx();
        if request.prompt.len() > n_ctx {
            let n_prompt = request.prompt.len();
            return Err(EngineError::PromptTooLong { n_prompt, n_ctx });
        }
        request.prompt.iter().for_each(|&id| sampler.accept(id));
        let max_tokens = request.max_tokens.unwrap_or(usize::MAX);
        let mut next = match self.prompt(&request.prompt, sampler)? {
            Some(id) => id,
            None => return Ok(Stats { prompt_time: start.elapsed(), ..stats }),
        };
        stats.prompt_time = start.elapsed();
        let start = Instant::now();
        stats.finish = loop {
            if stats.n_generated == max_tokens {
                break FinishReason::MaxTokens;
            }
            stats.n_generated += 1;
            if ends(next) {
                break FinishReason::EndOfGeneration;
            }
            if (self.tell)(TokenEvent::Token(next)).is_break() || self.is_cancelled() {
                break FinishReason::Cancelled;
            }
            if stats.n_generated == max_tokens {
                break FinishReason::MaxTokens;
            }
            sampler.accept(next);
            let run =
                SequenceChunk { sequence: self.sequence, tokens: &[next], outputs: Outputs::Last };
            match self.decoder.step_with_maxima(&[run], Some(self.cancel)) {
                Ok(mut rows) => {
                    let logits = rows.next().expect("the last token's were asked for");
                    next = sampler.sample(logits).map_err(EngineError::Sample)?;
                }
                Err(StepError::Kv(KvError::ContextFull { .. })) => break FinishReason::ContextFull,
                Err(StepError::Kv(KvError::OutOfBudget { .. })) => break FinishReason::OutOfMemory,
                Err(StepError::Cancelled) => break FinishReason::Cancelled,
                Err(error) => return Err(error.into()),
            }
        };
        stats.generate_time = start.elapsed();
        Ok(stats)
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Computes the prompt and draws the first token; `None` if cancelled.
    fn prompt(
        &mut self,
        prompt: &[u32],
        sampler: &mut SamplerChain,
    ) -> Result<Option<u32>, EngineError> {
        let mut done = 0;
        let mut chunks = prompt.chunks(self.decoder.max_batch()).peekable();
        while let Some(tokens) = chunks.next() {
            let last = chunks.peek().is_none();
            let outputs = if last { Outputs::Last } else { Outputs::None };
            let run = SequenceChunk { sequence: self.sequence, tokens, outputs };
            let row = match self.decoder.step_with_maxima(&[run], Some(self.cancel)) {
                Ok(mut rows) => rows.next(),
                Err(StepError::Cancelled) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if let Some(logits) = row {
                return sampler.sample(logits).map(Some).map_err(EngineError::Sample);
            }
            done += tokens.len();
            let event = TokenEvent::Prompt { done, total: prompt.len() };
            if (self.tell)(event).is_break() || self.is_cancelled() {
                return Ok(None);
            }
        }
        Ok(None)
    }
}
