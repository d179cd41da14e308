//! Request and answer: what a caller asks of a model, and what it is told.

use super::draft::Speculation;
use crate::sample::{Filter, Logprobs, SampleParams};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Text to continue, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Parameters of the sampler.
    pub sampling: SampleParams,
    /// Filters that come before those of the parameters, as a grammar or a bias.
    pub filters: Vec<Box<dyn Filter>>,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Number of likeliest tokens to tell with each token's log-probability; `None`: neither.
    pub logprobs: Option<usize>,
    /// Whether the request may start from a prefix that another one left in the KV cache, and
    /// leaves its own tokens there. Neither changes a token.
    pub cache_prefix: bool,
    /// Number of the prompt's first tokens that others will begin with, as instructions before a
    /// conversation: windows and recurrent states are kept there, too, so that others start from there
    /// whatever follows. It changes no token.
    pub shared_prefix: usize,
    /// Whether a request that runs alone checks drafts of several tokens at a time, as far as the engine
    /// gives rows of logits for them. It changes no token.
    pub speculation: Speculation,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            prompt: Vec::new(),
            max_tokens: None,
            sampling: SampleParams::default(),
            filters: Vec::new(),
            stop: Vec::new(),
            logprobs: None,
            cache_prefix: true,
            shared_prefix: 0,
            speculation: Speculation::Off,
        }
    }
}

impl Request {
    /// A request to continue `prompt` until the model ends, with the default sampler.
    pub fn new(prompt: Vec<u32>) -> Request {
        Request { prompt, ..Request::default() }
    }
}

/// News of a running request.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TokenEvent {
    /// A part of the prompt is computed.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens in the prompt.
        total: usize,
    },
    /// The next token of the answer; the token that ends the answer is not told.
    Token {
        /// Token id.
        id: u32,
        /// Text that may be shown since this token: often a word, empty in the middle of a character
        /// or of what may become a stop string. Always empty without a tokenizer.
        text: String,
        /// Log-probabilities, where the request asks for them.
        logprobs: Option<Logprobs>,
    },
    /// Text that was held back and turned out to be no stop string, at the end of the answer.
    Rest(String),
}

/// Reason for the end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model drew a token that ends an answer.
    EndOfGeneration,
    /// A stop string appeared.
    Stop {
        /// Index into [`Request::stop`].
        index: usize,
    },
    /// The requested number of tokens is reached.
    MaxTokens,
    /// The sequence has as many tokens as the context holds.
    ContextFull,
    /// The byte budget of the KV cache has no room for this request, even alone.
    OutOfMemory,
    /// The caller stopped the request.
    Cancelled,
}

/// Figures of an answered request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens in the prompt.
    pub n_prompt: usize,
    /// Tokens of the prompt that the request did not have to compute, because the KV cache had
    /// their keys, values and states.
    pub n_cached: usize,
    /// Time from the request's first step to the end of its prompt.
    pub prompt_time: Duration,
    /// Tokens generated, the ending one included.
    pub n_generated: usize,
    /// Tokens of drafts that were checked.
    pub n_drafted: usize,
    /// Tokens of drafts that came true.
    pub n_accepted: usize,
    /// Time for all generated tokens but the first, which the prompt's logits gave.
    pub generate_time: Duration,
    /// Reason for the end.
    pub finish: FinishReason,
}

/// Switch that ends a request from any thread.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    is_cancelled: Arc<AtomicBool>,
    /// Flag that interrupts the step under way, known while the request takes part in steps.
    interrupt: Arc<OnceLock<Arc<AtomicBool>>>,
}

impl CancelToken {
    /// Ends the request, within about the time of one layer. The step under way is undone and made
    /// again without it.
    pub fn cancel(&self) {
        // In this order: who sees the interruption sees its cause.
        self.is_cancelled.store(true, Ordering::Release);
        if let Some(interrupt) = self.interrupt.get() {
            interrupt.store(true, Ordering::Release);
        }
    }

    /// Whether the request is to end.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Names the flag of the steps that the request takes part in from now on.
    pub(super) fn attach(&self, interrupt: &Arc<AtomicBool>) {
        self.interrupt.get_or_init(|| interrupt.clone());
    }
}
