//! Errors of quantizing.

use super::imatrix::ImatrixError;
use super::mix::MixError;
use crate::tensor::memory::{NoThreads, OutOfMemory};
use gguf_rs_lite::{Error as GgufError, GgmlType, PartFileError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Error of a file that cannot be quantized as asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The types cannot be chosen.
    Mix(MixError),
    /// The importance matrix cannot be used.
    Imatrix(ImatrixError),
    /// The importance matrix has another shape than a tensor.
    ImportanceShape {
        /// The tensor.
        name: String,
        /// Columns of the tensor, times its matrices.
        expected: u64,
        /// Importances there are.
        found: usize,
    },
    /// The importance matrix has no tensor of the model.
    ForeignImportances {
        /// A tensor.
        name: String,
    },
    /// A type that is useless without importances.
    NeedsImportances {
        /// The tensor.
        name: String,
        /// Type that it would get.
        ty: GgmlType,
    },
    /// A method has no way to a type.
    NoMethod {
        /// The tensor.
        name: String,
        /// Type that it would get.
        ty: GgmlType,
        /// The method's name.
        method: &'static str,
    },
    /// Type of a tensor that cannot be read as numbers.
    CannotRead {
        /// The tensor.
        name: String,
        /// Type that it has.
        ty: GgmlType,
    },
    /// A weight that is NaN or infinite.
    NotFinite {
        /// The tensor.
        name: String,
        /// Row, counted over all matrices.
        row: u64,
        /// Column.
        column: u64,
    },
    /// A type that has no code for zero, and weights that are to be zero.
    NoZero {
        /// The tensor.
        name: String,
        /// The type.
        ty: GgmlType,
    },
    /// Rows that are no whole number of groups.
    PruneGroups {
        /// The tensor.
        name: String,
        /// Its columns.
        cols: u64,
        /// Columns of a group.
        group: usize,
    },
    /// No tensor that can be pruned.
    NothingToPrune {
        /// The pattern that finds none, if there are any.
        pattern: Option<String>,
    },
    /// A way of pruning that has to see inputs of a tensor of which nothing is known.
    NoInputs {
        /// The tensor.
        name: String,
        /// The method's name.
        method: &'static str,
    },
    /// Inputs of a product that are no finite numbers, or of which nothing can be learned.
    NotFiniteInputs,
    /// Weights too large for the type.
    TooLarge {
        /// The tensor.
        name: String,
        /// Type that it would get.
        ty: GgmlType,
    },
    /// A size that no choice of types comes down to.
    Target {
        /// Bytes that the file may have.
        target: u64,
        /// Bytes that it has at least.
        least: u64,
        /// Bits per weight that these are.
        least_bits: f64,
    },
    /// A tensor that lay on a grid when it was looked at, and does no longer.
    OffGrid {
        /// The tensor.
        name: String,
    },
    /// Tensors in the other byte order, which are to be turned first.
    BigEndian,
    /// The output is a file of the input.
    SameFile(PathBuf),
    /// The output cannot be written.
    Output(PartFileError),
    /// The input's bytes cannot be read, or the output's not written.
    Gguf(GgufError),
    /// No memory for buffers.
    Memory(OutOfMemory),
    /// No threads.
    Threads(io::Error),
    /// The caller had it stop; nothing is left of the output.
    Cancelled,
}

impl From<MixError> for QuantizeError {
    fn from(error: MixError) -> QuantizeError {
        QuantizeError::Mix(error)
    }
}

impl From<ImatrixError> for QuantizeError {
    fn from(error: ImatrixError) -> QuantizeError {
        QuantizeError::Imatrix(error)
    }
}

impl From<GgufError> for QuantizeError {
    fn from(error: GgufError) -> QuantizeError {
        QuantizeError::Gguf(error)
    }
}

impl From<PartFileError> for QuantizeError {
    fn from(error: PartFileError) -> QuantizeError {
        QuantizeError::Output(error)
    }
}

impl From<OutOfMemory> for QuantizeError {
    fn from(error: OutOfMemory) -> QuantizeError {
        QuantizeError::Memory(error)
    }
}

impl std::error::Error for QuantizeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            QuantizeError::Mix(source) => Some(source),
            QuantizeError::Imatrix(source) => Some(source),
            QuantizeError::Output(source) => Some(source),
            QuantizeError::Threads(source) => Some(source),
            QuantizeError::Gguf(source) => Some(source),
            QuantizeError::Memory(source) => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantizeError::Mix(source) => source.fmt(f),
            QuantizeError::Imatrix(source) => write!(f, "importance matrix: {source}"),
            QuantizeError::ImportanceShape { name, expected, found } => write!(
                f,
                "the importance matrix has {found} columns for tensor {name:?}, which has \
                 {expected}: it is another model's"
            ),
            QuantizeError::ForeignImportances { name } => write!(
                f,
                "the importance matrix has nothing for tensor {name:?} or any other: it is another \
                 model's"
            ),
            QuantizeError::NeedsImportances { name, ty } => write!(
                f,
                "tensor {name:?} would become {ty}, which is of little use without importances, \
                 and there are none for it"
            ),
            QuantizeError::NoMethod { name, ty, method } => {
                write!(f, "tensor {name:?} would become {ty}, for which method {method} has no way")
            }
            QuantizeError::CannotRead { name, ty } => {
                write!(f, "tensor {name:?} is {ty}, which cannot be read as numbers")
            }
            QuantizeError::NotFinite { name, row, column } => {
                write!(f, "tensor {name:?} has NaN or infinity in row {row}, column {column}")
            }
            QuantizeError::NoZero { name, ty } => {
                write!(
                    f,
                    "tensor {name:?}: {ty} has no code for zero, so that no weight can stay zero"
                )
            }
            QuantizeError::PruneGroups { name, cols, group } => {
                write!(
                    f,
                    "tensor {name:?} has rows of {cols}, which are no whole groups of {group}"
                )
            }
            QuantizeError::NothingToPrune { pattern: None } => {
                f.write_str("there are no matrices of layers that could be pruned")
            }
            QuantizeError::NothingToPrune { pattern: Some(pattern) } => {
                write!(f, "{pattern:?} finds no matrix of a layer that could be pruned")
            }
            QuantizeError::NoInputs { name, method } => write!(
                f,
                "method {method} has to know the inputs of tensor {name:?}, of which nothing is known"
            ),
            QuantizeError::NotFiniteInputs => {
                write!(
                    f,
                    "the inputs of a product are no finite numbers, or their Hessian is singular"
                )
            }
            QuantizeError::TooLarge { name, ty } => {
                write!(f, "tensor {name:?} has weights that are too large for {ty}")
            }
            QuantizeError::Target { target, least, least_bits } => write!(
                f,
                "{target} bytes are too few: with the smallest types the file has {least} bytes \
                 ({least_bits:.3} bits per weight)"
            ),
            QuantizeError::OffGrid { name } => {
                write!(f, "tensor {name:?} has changed while the file was read")
            }
            QuantizeError::BigEndian => f.write_str("the tensors are big-endian"),
            QuantizeError::SameFile(path) => {
                write!(f, "{}: the output is the input", path.display())
            }
            QuantizeError::Output(source) => source.fmt(f),
            QuantizeError::Gguf(source) => source.fmt(f),
            QuantizeError::Memory(source) => source.fmt(f),
            QuantizeError::Threads(source) => NoThreads(source).fmt(f),
            QuantizeError::Cancelled => f.write_str("cancelled"),
        }
    }
}
