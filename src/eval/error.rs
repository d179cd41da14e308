//! Errors of measuring.

use super::LogitsFileError;
use super::chunks::N_CTX_MIN;
use crate::decoder::StepError;
use crate::engine::EngineError;
use crate::quantize::imatrix::ImatrixError;
use crate::text::TextError;
use std::fmt;

/// Error of a measurement.
#[derive(Debug)]
#[non_exhaustive]
pub enum EvalError {
    /// The model cannot compute a step.
    Engine(EngineError),
    /// The text cannot be expressed in the model's vocabulary.
    Text(TextError),
    /// A text that does not fill one chunk.
    TooFewTokens {
        /// Its tokens.
        n_tokens: usize,
        /// Tokens in a chunk.
        n_ctx: usize,
    },
    /// Chunks in which nothing would be scored.
    ContextTooShort {
        /// Tokens in a chunk.
        n_ctx: usize,
    },
    /// A teacher with another vocabulary.
    Vocabulary {
        /// Tokens that the model has.
        model: usize,
        /// Tokens that the teacher has.
        teacher: usize,
    },
    /// Logits that are no numbers.
    NotFinite {
        /// Number of the chunk or question, from 0.
        chunk: usize,
        /// Position in it.
        position: usize,
    },
    /// A file of logits that cannot be used or written.
    Logits(LogitsFileError),
    /// A question that cannot be asked.
    Question {
        /// Number of the question, from 0.
        question: usize,
        /// What is wrong with it.
        error: super::QuestionError,
    },
    /// Activations that are no finite numbers.
    Importance(ImatrixError),
    /// Threads could not be started.
    Threads(std::io::Error),
    /// The listener wanted no more.
    Stopped,
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvalError::Engine(error) => error.fmt(f),
            EvalError::Text(error) => error.fmt(f),
            EvalError::TooFewTokens { n_tokens, n_ctx } => write!(
                f,
                "the text has {n_tokens} tokens, which fill no chunk of {n_ctx}: a longer text or a \
                 shorter context is needed"
            ),
            EvalError::ContextTooShort { n_ctx } => {
                write!(f, "chunks of {n_ctx} tokens are too short: {N_CTX_MIN} is the least")
            }
            EvalError::Vocabulary { model, teacher } => write!(
                f,
                "the model has {model} tokens and its teacher {teacher}: their answers cannot be \
                 compared"
            ),
            EvalError::NotFinite { chunk, position } => write!(
                f,
                "the logits behind token {} of chunk {} are no finite numbers",
                position + 1,
                chunk + 1
            ),
            EvalError::Logits(error) => error.fmt(f),
            EvalError::Question { question, error } => {
                write!(f, "question {}: {error}", question + 1)
            }
            EvalError::Importance(error) => error.fmt(f),
            EvalError::Threads(error) => write!(f, "cannot start threads: {error}"),
            EvalError::Stopped => write!(f, "the measurement was stopped"),
        }
    }
}

impl std::error::Error for EvalError {}

impl From<EngineError> for EvalError {
    fn from(error: EngineError) -> EvalError {
        EvalError::Engine(error)
    }
}

impl From<StepError> for EvalError {
    fn from(error: StepError) -> EvalError {
        EvalError::Engine(EngineError::Step(error))
    }
}

impl From<TextError> for EvalError {
    fn from(error: TextError) -> EvalError {
        EvalError::Text(error)
    }
}

impl From<LogitsFileError> for EvalError {
    fn from(error: LogitsFileError) -> EvalError {
        EvalError::Logits(error)
    }
}
