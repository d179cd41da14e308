//! Errors of decoders and of their steps.

use crate::backend::{DeviceError, StartError, Unfinished};
use crate::kv::{ContextTooLarge, KvError};
use crate::model::ModelError;
use crate::tensor::memory::{NoThreads, OutOfMemory};

/// Error of a decoder that cannot be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum DecoderError {
    /// The file is no model that can be run.
    Model(ModelError),
    /// Worker threads could not be started.
    Threads(std::io::Error),
    /// The KV cache of one sequence does not fit its budget.
    Context(ContextTooLarge),
    /// The system has no memory for the buffers.
    Memory(OutOfMemory),
    /// A device beside the CPUs is not to be had.
    Device(DeviceError),
}

impl std::fmt::Display for DecoderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecoderError::Model(error) => error.fmt(f),
            DecoderError::Threads(error) => NoThreads(error).fmt(f),
            DecoderError::Context(error) => error.fmt(f),
            DecoderError::Memory(error) => error.fmt(f),
            DecoderError::Device(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DecoderError {}

impl From<StartError> for DecoderError {
    fn from(error: StartError) -> DecoderError {
        match error {
            StartError::Threads(error) => DecoderError::Threads(error),
            StartError::Memory(error) => DecoderError::Memory(error),
            StartError::Device(error) => DecoderError::Device(error),
        }
    }
}

impl From<ModelError> for DecoderError {
    fn from(error: ModelError) -> DecoderError {
        DecoderError::Model(error)
    }
}

/// Error of a step that was not made. Sequences are as they were before then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepError {
    /// No room in the cache.
    Kv(KvError),
    /// A token id that the model does not have.
    TokenId {
        /// The id.
        id: u32,
        /// Number of tokens in the vocabulary.
        n_vocab: usize,
    },
    /// More tokens or results than [`DecoderOptions`](super::DecoderOptions) allow.
    BatchTooLarge {
        /// Tokens allowed.
        max_batch: usize,
        /// Rows of results allowed.
        max_outputs: usize,
    },
    /// A sequence is twice in the batch.
    SequenceTwice,
    /// More tokens for a sequence of a bidirectional model, whose first ones cannot see them.
    Continued,
    /// The caller's flag was set while the step was computed.
    Cancelled,
    /// The system has no memory for the step. A sequence whose states had been changed by then is
    /// cut back to where they are known.
    Memory(OutOfMemory),
    /// A device beside the CPUs is lost, or refused something; sequences are as for
    /// [`StepError::Memory`].
    Device(DeviceError),
    /// The same, and the CPUs have taken its part over. All sequences are empty now, and no prefix is kept:
    /// their tokens can be computed again.
    Moved(DeviceError),
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StepError::Kv(error) => error.fmt(f),
            StepError::TokenId { id, n_vocab } => {
                write!(f, "token id {id} is not in the vocabulary of {n_vocab} tokens")
            }
            StepError::BatchTooLarge { max_batch, max_outputs } => {
                write!(f, "a step takes {max_batch} tokens and gives {max_outputs} rows of logits")
            }
            StepError::SequenceTwice => write!(f, "a sequence is twice in the batch"),
            StepError::Continued => {
                write!(f, "the model sees texts whole: a text cannot be continued")
            }
            StepError::Cancelled => write!(f, "the step was cancelled"),
            StepError::Memory(error) => error.fmt(f),
            StepError::Device(error) | StepError::Moved(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StepError {}

impl From<Unfinished> for StepError {
    fn from(error: Unfinished) -> StepError {
        match error {
            Unfinished::Cancelled => StepError::Cancelled,
            Unfinished::Memory(error) => StepError::Memory(error),
            Unfinished::Device(error) => StepError::Device(error),
            Unfinished::Moved(error) => StepError::Moved(error),
        }
    }
}

impl From<KvError> for StepError {
    fn from(error: KvError) -> StepError {
        StepError::Kv(error)
    }
}
