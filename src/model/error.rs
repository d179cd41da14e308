//! Errors of files that cannot be run as a model.

use gguf_rs_lite::GgmlType;
use std::fmt;

/// Error of a file that cannot be run as a model; each names the key or the tensor at fault.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ModelError {
    /// No description of this architecture.
    UnknownArchitecture(String),
    /// A required key is missing.
    MissingKey(String),
    /// A key has a value that cannot be used.
    BadKey {
        /// The key.
        key: String,
        /// Description of what is wrong, continuing "key `..`".
        problem: String,
    },
    /// A key that may change the mathematics and that the description does not know.
    UnknownKey(String),
    /// A required tensor is missing.
    MissingTensor(String),
    /// A tensor has another shape than the hyperparameters say.
    TensorShape {
        /// The tensor.
        name: String,
        /// Dimensions in GGUF order, rows first in length.
        found: Vec<u64>,
        /// Dimensions that the model needs, in the same order.
        expected: Vec<u64>,
    },
    /// A tensor that no part of the model uses.
    UnusedTensor(String),
    /// A tensor of a type that has no kernel yet.
    TensorType {
        /// The tensor.
        name: String,
        /// Type that has no kernel.
        ty: GgmlType,
    },
    /// Activations that would take more memory than any model needs.
    TooWide {
        /// Bytes for one token.
        bytes_per_token: usize,
    },
    /// Recurrent states that would take more memory than any model needs.
    StateTooLarge {
        /// Bytes for one sequence.
        bytes: usize,
    },
    /// A context that the model has no positions for.
    ContextTooLong {
        /// Tokens asked for.
        n_ctx: usize,
        /// Tokens that the model can take.
        n_ctx_max: usize,
    },
    /// An adapter is for a tensor that the model does not have, or that is no linear weight.
    NotAdaptable(String),
    /// An adapter of a rank that no adapter has.
    Rank {
        /// The tensor.
        name: String,
        /// Rank in the file.
        rank: u64,
        /// The largest rank.
        max: u64,
    },
    /// The description, or an adapter, gave a program that cannot be run: a bug of this library, or
    /// metadata that contradict each other in a way that no other check has found.
    Program {
        /// The operation and what is wrong with it.
        problem: String,
    },
    /// A tensor that has to be copied and that the memory has no room for.
    Memory {
        /// The tensor.
        name: String,
        /// Bytes of the copy.
        bytes: usize,
    },
    /// Layers that cannot be computed one by one.
    LayersDepend {
        /// What a layer reads beside the stream.
        what: &'static str,
    },
    /// Big-endian tensors that nobody has turned around.
    BigEndian,
    /// The file is an adapter, not a model.
    IsAdapter,
}

impl ModelError {
    pub(crate) fn bad_key(key: impl Into<String>, problem: impl Into<String>) -> ModelError {
        ModelError::BadKey { key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelError::UnknownArchitecture(name) => {
                write!(f, "key `general.architecture`: `{name}` is not supported; known are ")?;
                f.write_str(&super::arch::names().collect::<Vec<_>>().join(", "))
            }
            ModelError::MissingKey(key) => write!(f, "key `{key}` is missing"),
            ModelError::BadKey { key, problem } => write!(f, "key `{key}` {problem}"),
            ModelError::UnknownKey(key) => {
                write!(f, "key `{key}` is not understood and may change the results")
            }
            ModelError::MissingTensor(name) => write!(f, "tensor `{name}` is missing"),
            ModelError::TensorShape { name, found, expected } => {
                write!(f, "tensor `{name}` has shape {found:?}, the model needs {expected:?}")
            }
            ModelError::UnusedTensor(name) => {
                write!(f, "tensor `{name}` has no place in this architecture")
            }
            ModelError::TensorType { name, ty } => {
                write!(f, "tensor `{name}` has type {ty}, which cannot be computed with yet")
            }
            ModelError::TooWide { bytes_per_token } => {
                write!(f, "one token's activations would take {bytes_per_token} bytes")
            }
            ModelError::StateTooLarge { bytes } => {
                write!(f, "one sequence's recurrent states would take {bytes} bytes")
            }
            ModelError::ContextTooLong { n_ctx, n_ctx_max } => {
                write!(f, "a context of {n_ctx} tokens, but the model can take only {n_ctx_max}")
            }
            ModelError::NotAdaptable(name) => {
                write!(f, "the model has no tensor `{name}` that can be adapted")
            }
            ModelError::Rank { name, rank, max } => {
                write!(f, "tensor `{name}` has a rank of {rank}, more than {max}")
            }
            ModelError::Program { problem } => {
                write!(f, "the model was lowered to a program that cannot run: {problem}")
            }
            ModelError::Memory { name, bytes } => {
                write!(f, "tensor `{name}` has to be copied: no memory for its {bytes} bytes")
            }
            ModelError::LayersDepend { what } => {
                write!(f, "the model's layers cannot be computed one by one: they read {what}")
            }
            ModelError::BigEndian => write!(f, "big-endian tensors must be turned around first"),
            ModelError::IsAdapter => {
                write!(
                    f,
                    "key `general.type` is `adapter`: not a model, but something to add to one"
                )
            }
        }
    }
}

impl std::error::Error for ModelError {}
