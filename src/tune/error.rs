//! Errors of tuning.

use crate::engine::EngineError;
use crate::model::ModelError;
use crate::quantize::QuantizeError;
use crate::tensor::memory::OutOfMemory;
use gguf_rs_lite::{Error as GgufError, GgmlType, PartFileError};
use std::fmt;
use std::path::PathBuf;

/// Error of a model that cannot be tuned as asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum TuneError {
    /// The model's tensors cannot be bound.
    Model(ModelError),
    /// The model has an operation whose gradient is not known.
    Operation {
        /// The operation.
        op: &'static str,
    },
    /// The model gives no logits, or sees later tokens.
    NoLogits,
    /// No tensor that was asked for has numbers that can be trained.
    Nothing,
    /// Type of a tensor that cannot be read as numbers.
    Type {
        /// The tensor.
        name: String,
        /// Type that it has.
        ty: GgmlType,
    },
    /// A token that the vocabulary has none of.
    TokenId {
        /// The token.
        id: u32,
        /// Tokens that there are.
        n_vocab: usize,
    },
    /// A loss that is no finite number.
    NotFinite {
        /// Position in its sequence.
        position: usize,
    },
    /// Nothing to learn from.
    NoData,
    /// The teacher cannot answer.
    Teacher(EngineError),
    /// A teacher with another vocabulary.
    Vocabulary {
        /// Tokens that the model has.
        model: usize,
        /// Tokens that the teacher has.
        teacher: usize,
    },
    /// Threads, memory or the output.
    Quantize(QuantizeError),
    /// There is not enough memory.
    Memory(OutOfMemory),
    /// A checkpoint of another model, text or choice.
    Foreign(PathBuf),
    /// A file that cannot be read or written.
    Gguf(GgufError),
    /// A file that cannot be written.
    Output(PartFileError),
    /// The caller had it stop.
    Stopped,
}

impl fmt::Display for TuneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TuneError::Model(error) => error.fmt(f),
            TuneError::Operation { op } => {
                write!(f, "the model cannot be tuned: no gradient is known of its operation {op}")
            }
            TuneError::NoLogits => {
                write!(f, "the model cannot be tuned: it does not predict the next token")
            }
            TuneError::Nothing => write!(
                f,
                "nothing to train: no tensor that was asked for has what is to be trained"
            ),
            TuneError::Type { name, ty } => write!(f, "{name}: {ty} cannot be read"),
            TuneError::TokenId { id, n_vocab } => {
                write!(f, "token {id} is beyond the vocabulary of {n_vocab}")
            }
            TuneError::NotFinite { position } => {
                write!(
                    f,
                    "the loss behind token {} of a sequence is no finite number",
                    position + 1
                )
            }
            TuneError::NoData => {
                write!(f, "the text has too few tokens to learn from and to measure")
            }
            TuneError::Teacher(error) => write!(f, "the teacher: {error}"),
            TuneError::Vocabulary { model, teacher } => write!(
                f,
                "the model has {model} tokens and its teacher {teacher}: their answers cannot be \
                 compared"
            ),
            TuneError::Quantize(error) => error.fmt(f),
            TuneError::Memory(error) => error.fmt(f),
            TuneError::Foreign(path) => write!(
                f,
                "{}: of another model, text or choice: remove it, or take another output",
                path.display()
            ),
            TuneError::Gguf(error) => error.fmt(f),
            TuneError::Output(error) => error.fmt(f),
            TuneError::Stopped => write!(f, "stopped"),
        }
    }
}

impl std::error::Error for TuneError {}

impl From<ModelError> for TuneError {
    fn from(error: ModelError) -> TuneError {
        TuneError::Model(error)
    }
}

impl From<QuantizeError> for TuneError {
    fn from(error: QuantizeError) -> TuneError {
        TuneError::Quantize(error)
    }
}

impl From<OutOfMemory> for TuneError {
    fn from(error: OutOfMemory) -> TuneError {
        TuneError::Memory(error)
    }
}

impl From<GgufError> for TuneError {
    fn from(error: GgufError) -> TuneError {
        TuneError::Gguf(error)
    }
}

impl From<PartFileError> for TuneError {
    fn from(error: PartFileError) -> TuneError {
        TuneError::Output(error)
    }
}
