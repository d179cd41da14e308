//! Errors of models and of requests.

use super::{ANSWERS_MAX, OtherVocabulary, WAITING_MAX};
use crate::backend::DeviceError;
use crate::decoder::StepError;
use crate::kv::ContextTooLarge;
use crate::model::ModelError;
use crate::sample::{LOGPROBS_MAX, SampleError};
use crate::tensor::memory::{self, OutOfMemory};
use crate::text::{StopError, TextError};
use std::fmt;
use std::path::PathBuf;

/// Error of a model that cannot be loaded or of a request that cannot be answered.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The file is no GGUF file.
    File(gguf_rs_lite::Error),
    /// The file is no model that can be run.
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ModelError,
    },
    /// The file's vocabulary cannot be used.
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: TextError,
    },
    /// Worker threads could not be started.
    Threads(std::io::Error),
    /// The KV cache of a context does not fit its budget.
    Context(ContextTooLarge),
    /// The system has no memory for a buffer.
    Memory(OutOfMemory),
    /// A device beside the CPUs is not to be had.
    Device(DeviceError),
    /// A step was refused.
    Step(StepError),
    /// A token could not be drawn.
    Sample(SampleError),
    /// Stop strings are refused.
    Stop(StopError),
    /// Stop strings without a tokenizer, which gives the text that they are looked for in.
    NoTokenizer,
    /// More of the likeliest tokens are wanted than [`LOGPROBS_MAX`].
    TooManyLogprobs {
        /// Number of tokens.
        n_top: usize,
    },
    /// More answers to one prompt are wanted than [`ANSWERS_MAX`].
    TooManyAnswers {
        /// Number of answers.
        n: usize,
    },
    /// [`WAITING_MAX`] requests wait already.
    Busy,
    /// The thread that answers requests has ended.
    Stopped,
    /// The request's own work panicked: its sampler, its listener, or a step with its tokens alone.
    Panicked {
        /// Message of the panic.
        message: String,
    },
    /// A request without a token.
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    PromptTooLong {
        /// Tokens in the prompt.
        n_prompt: usize,
        /// Tokens in the context.
        n_ctx: usize,
    },
    /// A request to a model that gives no next token.
    NoLogits,
    /// Texts for a model that is not in embedding mode, see [`Model::output_embeddings`](super::Model::output_embeddings).
    NoEmbeddings,
    /// A draft model has another vocabulary than the model that it is to draft for.
    OtherVocabulary(Box<OtherVocabulary>),
    /// Scores are wanted of a model without a classifier.
    NoClassifier,
    /// A text without a token.
    EmptyText {
        /// Which one, from 0.
        text: usize,
    },
    /// A text that the model cannot see whole.
    TextTooLong {
        /// Which one, from 0.
        text: usize,
        /// Its tokens.
        n_tokens: usize,
        /// Tokens that a text may have.
        max: usize,
    },
    /// A text whose vectors are infinite or no numbers.
    NotFinite {
        /// Which one, from 0.
        text: usize,
    },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::File(error) => error.fmt(f),
            EngineError::Model { path, error } => write!(f, "{}: {error}", path.display()),
            EngineError::Text { path, error } => write!(f, "{}: {error}", path.display()),
            EngineError::Threads(error) => memory::NoThreads(error).fmt(f),
            EngineError::Context(error) => error.fmt(f),
            EngineError::Memory(error) => error.fmt(f),
            EngineError::Device(error) => error.fmt(f),
            EngineError::Step(error) => error.fmt(f),
            EngineError::Sample(error) => error.fmt(f),
            EngineError::Stop(error) => error.fmt(f),
            EngineError::NoTokenizer => {
                write!(f, "stop strings need the text of tokens, and there is no tokenizer")
            }
            EngineError::TooManyLogprobs { n_top } => {
                write!(f, "{n_top} likeliest tokens are more than the {LOGPROBS_MAX} allowed")
            }
            EngineError::TooManyAnswers { n } => {
                write!(f, "{n} answers to a prompt are more than the {ANSWERS_MAX} allowed")
            }
            EngineError::Busy => write!(f, "{WAITING_MAX} requests are waiting already"),
            EngineError::Stopped => write!(f, "the thread that answers requests has ended"),
            EngineError::Panicked { message } => write!(f, "the request panicked: {message}"),
            EngineError::EmptyPrompt => write!(f, "the prompt is empty"),
            EngineError::PromptTooLong { n_prompt, n_ctx } => {
                write!(f, "the prompt has {n_prompt} tokens and the context holds {n_ctx}")
            }
            EngineError::NoLogits => {
                write!(f, "the model is an encoder, which gives no next token")
            }
            EngineError::NoEmbeddings => {
                write!(f, "the model was loaded to give logits, not embeddings")
            }
            EngineError::OtherVocabulary(error) => error.fmt(f),
            EngineError::NoClassifier => {
                write!(
                    f,
                    "the model is no reranker: it has no tensor `cls.weight` or `cls.output.weight`"
                )
            }
            EngineError::EmptyText { text } => write!(f, "text {} has no token", text + 1),
            EngineError::TextTooLong { text, n_tokens, max } => write!(
                f,
                "text {} has {n_tokens} tokens, more than the {max} that a text may have",
                text + 1
            ),
            EngineError::NotFinite { text } => {
                write!(f, "text {} gives vectors that are no finite numbers", text + 1)
            }
        }
    }
}

impl std::error::Error for EngineError {}

impl EngineError {
    /// The same of texts that come after `n` others.
    pub fn after_texts(mut self, n: usize) -> EngineError {
        if let EngineError::EmptyText { text }
        | EngineError::TextTooLong { text, .. }
        | EngineError::NotFinite { text } = &mut self
        {
            *text += n;
        }
        self
    }
}

impl From<StepError> for EngineError {
    fn from(error: StepError) -> EngineError {
        EngineError::Step(error)
    }
}
