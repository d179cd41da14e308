//! Errors of files that are no importance matrix.

use super::{COUNTS_SUFFIX, SUMS_SUFFIX, TYPE_KEY};
use gguf_rs_lite::{Error as GgufError, GgmlType};
use std::fmt;
use std::path::PathBuf;

/// Error of statistics that are none.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StatisticsFault {
    /// Sums that are not the same number for each matrix.
    Shape {
        /// Number of sums.
        sums: usize,
        /// Number of counts.
        matrices: usize,
    },
    /// Another shape than the statistics they are to be added to.
    Other {
        /// Matrices and columns of what is there.
        expected: [usize; 2],
        /// Matrices and columns of what is added.
        found: [usize; 2],
    },
    /// A sum of squares that is negative or not finite.
    Sum {
        /// Index among all sums.
        column: usize,
        /// The sum.
        value: f32,
    },
    /// A count that is negative or not finite.
    Count {
        /// The matrix.
        matrix: usize,
        /// The count.
        value: f32,
    },
    /// Numbers of another type than F32.
    Type(GgmlType),
}

impl fmt::Display for StatisticsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StatisticsFault::Shape { sums, matrices } => {
                write!(f, "{sums} sums of squares for {matrices} matrices")
            }
            StatisticsFault::Other { expected, found } => write!(
                f,
                "{} matrices of {} columns are to be added to {} of {}",
                found[0], found[1], expected[0], expected[1]
            ),
            StatisticsFault::Sum { column, value } => {
                write!(f, "sum of squares {column} is {value}")
            }
            StatisticsFault::Count { matrix, value } => {
                write!(f, "the count of matrix {matrix} is {value}")
            }
            StatisticsFault::Type(ty) => write!(f, "its numbers are {ty}, not F32"),
        }
    }
}

impl std::error::Error for StatisticsFault {}

/// Error of a file that is no importance matrix, or of two that do not belong together.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImatrixError {
    /// The file cannot be read.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any importance matrix.
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
    },
    /// The bytes are no valid GGUF, or writing failed.
    Gguf(GgufError),
    /// A GGUF file of another kind; its `general.type`, if it has one.
    Kind(Option<String>),
    /// A key is missing or has a value that cannot be used.
    Key {
        /// The key.
        key: &'static str,
        /// Description of what is wrong, continuing "key `..`".
        problem: &'static str,
    },
    /// A tensor that is neither sums nor counts.
    UnknownTensor(String),
    /// Sums without counts, or counts without sums.
    NoPartner(String),
    /// A weight with statistics that are none.
    Weight {
        /// The weight.
        name: String,
        /// What is wrong.
        fault: StatisticsFault,
    },
    /// A weight that comes twice.
    Duplicate(String),
    /// The old binary form ends too early.
    Truncated {
        /// Byte of the file.
        offset: usize,
        /// Bytes needed there.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes behind the end of the old binary form.
    Trailing {
        /// Byte of the file.
        offset: usize,
        /// Bytes left over.
        bytes: usize,
    },
    /// A number of things in the old binary form that it cannot have.
    Count {
        /// Byte of the file.
        offset: usize,
        /// What is counted.
        what: &'static str,
        /// The number.
        value: i32,
        /// Most that there may be.
        max: usize,
    },
    /// A weight in the old binary form has a name of no bytes.
    NoName {
        /// Byte of the file.
        offset: usize,
    },
    /// A name in the old binary form is not UTF-8.
    Utf8 {
        /// Byte of the file.
        offset: usize,
    },
    /// One of two importance matrices does not know how many tokens its chunks have.
    ChunkSizeUnknown,
}

impl From<GgufError> for ImatrixError {
    fn from(error: GgufError) -> ImatrixError {
        ImatrixError::Gguf(error)
    }
}

impl std::error::Error for ImatrixError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ImatrixError::Io { source, .. } => Some(source),
            ImatrixError::Gguf(source) => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for ImatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImatrixError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            ImatrixError::TooLarge { bytes } => {
                write!(f, "{bytes} bytes are more than any importance matrix has")
            }
            ImatrixError::Gguf(source) => source.fmt(f),
            ImatrixError::Kind(None) => {
                write!(f, "not an importance matrix: no key `{TYPE_KEY}`")
            }
            ImatrixError::Kind(Some(kind)) => {
                write!(f, "not an importance matrix: key `{TYPE_KEY}` is {kind:?}")
            }
            ImatrixError::Key { key, problem } => write!(f, "key `{key}` {problem}"),
            ImatrixError::UnknownTensor(name) => {
                write!(f, "tensor {name:?} is neither `*{SUMS_SUFFIX}` nor `*{COUNTS_SUFFIX}`")
            }
            ImatrixError::NoPartner(name) => {
                write!(f, "tensor {name:?} has no partner: sums and counts come in pairs")
            }
            ImatrixError::Weight { name, fault } => write!(f, "weight {name:?}: {fault}"),
            ImatrixError::Duplicate(name) => write!(f, "weight {name:?} comes twice"),
            ImatrixError::Truncated { offset, needed, left } => {
                write!(
                    f,
                    "offset {offset}: the file is cut off: {needed} bytes needed, {left} left"
                )
            }
            ImatrixError::Trailing { offset, bytes } => {
                write!(f, "offset {offset}: {bytes} bytes behind the end of the importance matrix")
            }
            ImatrixError::Count { offset: 0, .. } => f.write_str(
                "not an importance matrix: it begins neither as GGUF nor with the number of entries \
                 that the old form has there",
            ),
            ImatrixError::Count { offset, what, value, max } => {
                write!(f, "offset {offset}: {value} {what}, 0 to {max} are allowed")
            }
            ImatrixError::NoName { offset } => write!(f, "offset {offset}: a weight without a name"),
            ImatrixError::Utf8 { offset } => write!(f, "offset {offset}: the name is not UTF-8"),
            ImatrixError::ChunkSizeUnknown => f.write_str(
                "importance matrices with and without a known chunk size cannot be merged",
            ),
        }
    }
}
