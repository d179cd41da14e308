//! Errors of conversions: each names the file, the entry or the tensor at fault.

use crate::model::ModelError;
use crate::text::TextError;
use gguf_rs_lite::PartFileError;
use std::fmt;
use std::path::PathBuf;

/// Error of a folder that cannot be converted.
#[derive(Debug)]
pub enum ConvertError {
    /// A file cannot be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file is not what its name says.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The folder has no weights in a form that is read.
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What there is instead, if anything.
        found: Option<String>,
    },
    /// An index names a file that is not there.
    MissingShard {
        /// The file.
        path: PathBuf,
        /// A tensor that should be in it.
        tensor: String,
    },
    /// No family has a class of this name.
    UnknownClass(String),
    /// A class whose architecture runs, but whose checkpoints are not converted.
    Unconverted {
        /// The class.
        class: String,
        /// Why.
        reason: &'static str,
    },
    /// An entry of `config.json` is missing.
    MissingEntry(String),
    /// An entry of `config.json` has no use as it is.
    BadEntry {
        /// Name of the entry.
        entry: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor that the family has no name for.
    UnknownTensor(String),
    /// Two tensors that would have one name.
    SameName {
        /// The name in GGUF.
        to: String,
        /// One of the tensors.
        first: String,
        /// The other.
        second: String,
    },
    /// A tensor of a shape that it cannot have.
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// What is wrong.
        problem: String,
    },
    /// A tensor of a type that is not converted.
    Type {
        /// The tensor.
        tensor: String,
        /// Name of its type.
        ty: String,
        /// Why not.
        problem: &'static str,
    },
    /// An expert of a layer is missing.
    MissingExpert {
        /// The stack in GGUF.
        to: String,
        /// Number of the expert.
        expert: usize,
    },
    /// A number that is infinite or none, or becomes so in the wanted type.
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Place of the element.
        index: u64,
        /// The number as it is stored.
        value: f32,
        /// Name of the wanted type.
        ty: String,
    },
    /// The model that an adapter is for is not there.
    NoBase {
        /// The adapter's description.
        path: PathBuf,
        /// The model as that names it.
        base: String,
    },
    /// A part of an adapter that adapters in GGUF cannot have.
    NotLowRank {
        /// The tensor, or the module that it belongs to.
        tensor: String,
        /// Why not.
        problem: &'static str,
    },
    /// The vocabulary has no form in GGUF, or not one that is known.
    Vocabulary(String),
    /// The words of texts are cut in a way that has no known name.
    UnknownPreTokenizer {
        /// How they are cut.
        steps: String,
    },
    /// The result would cut a text in another way than the checkpoint's own tokenizer.
    OtherTokens {
        /// The text.
        text: String,
        /// Ids that the result would give.
        ours: Vec<u32>,
        /// Ids that `tokenizer.json` gives.
        theirs: Vec<u32>,
    },
    /// The checkpoint is quantized in a form that is not read.
    Quantized(String),
    /// A quantized matrix is not what its tensors say.
    Unpackable {
        /// One of its tensors, or its module.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The result's file cannot be made or finished.
    Output(PartFileError),
    /// Somebody wanted it to end.
    Cancelled,
    /// The result cannot be written.
    Gguf(gguf_rs_lite::Error),
    /// The result would not load.
    Model(ModelError),
    /// The result's vocabulary would not load.
    Text(TextError),
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConvertError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            ConvertError::Malformed { path, problem } => {
                write!(f, "{}: {problem}", path.display())
            }
            ConvertError::NoWeights { path, found } => {
                write!(f, "{}: no safetensors in this folder", path.display())?;
                found.as_ref().map_or(Ok(()), |found| write!(f, ", and {found} is not read"))
            }
            ConvertError::MissingShard { path, tensor } => {
                write!(f, "{}: missing, and tensor `{tensor}` is in it", path.display())
            }
            ConvertError::Unconverted { class, reason } => {
                write!(f, "models of class {class} run, but are not converted: {reason}")
            }
            ConvertError::UnknownClass(class) => {
                write!(f, "config.json: no conversion is known for class `{class}`")
            }
            ConvertError::MissingEntry(entry) => write!(f, "config.json: `{entry}` is missing"),
            ConvertError::BadEntry { entry, problem } => {
                write!(f, "config.json: `{entry}` {problem}")
            }
            ConvertError::UnknownTensor(name) => {
                write!(f, "tensor `{name}` has no known place in this architecture")
            }
            ConvertError::SameName { to, first, second } => {
                write!(f, "tensors `{first}` and `{second}` would both be `{to}`")
            }
            ConvertError::Shape { tensor, shape, problem } => {
                write!(f, "tensor `{tensor}` has shape {shape:?}: {problem}")
            }
            ConvertError::Type { tensor, ty, problem } => {
                write!(f, "tensor `{tensor}` is of type {ty}: {problem}")
            }
            ConvertError::MissingExpert { to, expert } => {
                write!(f, "expert {expert} of `{to}` is missing")
            }
            ConvertError::NotFinite { tensor, index, value, ty } if value.is_finite() => {
                write!(f, "tensor `{tensor}`: element {index} is {value}, too large for {ty}")
            }
            ConvertError::NotFinite { tensor, index, value, .. } => {
                write!(f, "tensor `{tensor}`: element {index} is {value}")
            }
            ConvertError::NoBase { path, base } => write!(
                f,
                "{}: the config.json of its model ({base}) is neither beside it nor named",
                path.display()
            ),
            ConvertError::NotLowRank { tensor, problem } => {
                write!(f, "adapter of `{tensor}`: {problem}")
            }
            ConvertError::Vocabulary(problem) => write!(f, "vocabulary: {problem}"),
            ConvertError::UnknownPreTokenizer { steps } => {
                write!(f, "tokenizer.json: unknown pre-tokenizer: {steps}")
            }
            ConvertError::OtherTokens { text, ours, theirs } => write!(
                f,
                "tokenizer.json gives {theirs:?} for {text:?}, and the result would give {ours:?}"
            ),
            ConvertError::Quantized(method) => {
                write!(f, "config.json: checkpoints quantized by {method} are not read")
            }
            ConvertError::Unpackable { tensor, problem } => write!(f, "`{tensor}`: {problem}"),
            ConvertError::Output(error) => error.fmt(f),
            ConvertError::Cancelled => f.write_str("nothing was written"),
            ConvertError::Gguf(error) => error.fmt(f),
            ConvertError::Model(error) => write!(f, "the result would not run: {error}"),
            ConvertError::Text(error) => write!(f, "the result would not run: {error}"),
        }
    }
}

impl std::error::Error for ConvertError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConvertError::Io { error, .. } => Some(error),
            ConvertError::Gguf(error) => Some(error),
            ConvertError::Output(error) => Some(error),
            ConvertError::Model(error) => Some(error),
            ConvertError::Text(error) => Some(error),
            _ => None,
        }
    }
}

impl From<PartFileError> for ConvertError {
    fn from(error: PartFileError) -> ConvertError {
        ConvertError::Output(error)
    }
}

impl From<gguf_rs_lite::Error> for ConvertError {
    fn from(error: gguf_rs_lite::Error) -> ConvertError {
        ConvertError::Gguf(error)
    }
}
