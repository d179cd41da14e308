//! Errors of methods that see a text.

use crate::decoder::{DecoderError, StepError};
use crate::model::ModelError;
use crate::quantize::{Planned, QuantizeError};
use crate::tensor::memory::OutOfMemory;
use gguf_rs_lite::{Error as GgufError, PartFileError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Error of layers that cannot be quantized as asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The model cannot be run layer by layer.
    Model(ModelError),
    /// A layer cannot be made ready.
    Decoder(DecoderError),
    /// A layer cannot be run.
    Step(StepError),
    /// Weights cannot be quantized.
    Quantize(QuantizeError),
    /// The streams in front of a layer are no finite numbers.
    NotFinite {
        /// The layer.
        layer: usize,
    },
    /// The folder of finished layers cannot be made or read.
    Folder {
        /// The folder or a file in it.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder holds the layers of something else.
    Foreign(PathBuf),
    /// A file of the folder cannot be written.
    Output(PartFileError),
    /// A file of the folder is no GGUF file.
    Gguf(GgufError),
    /// The caller had it stop.
    Stopped,
}

impl CalibrateError {
    pub(super) fn no_kernels(tensor: &Planned<'_>) -> CalibrateError {
        let (name, ty) = (tensor.info.name.clone(), tensor.info.ty);
        CalibrateError::Quantize(QuantizeError::CannotRead { name, ty })
    }
}

impl fmt::Display for CalibrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CalibrateError::Model(error) => error.fmt(f),
            CalibrateError::Decoder(error) => error.fmt(f),
            CalibrateError::Step(error) => error.fmt(f),
            CalibrateError::Quantize(error) => error.fmt(f),
            CalibrateError::NotFinite { layer } => {
                write!(f, "the activations in front of layer {layer} are no finite numbers")
            }
            CalibrateError::Folder { path, error } => write!(f, "{}: {error}", path.display()),
            CalibrateError::Foreign(path) => write!(
                f,
                "{}: layers of another model, text or choice of types: remove the folder, or take \
                 another output",
                path.display()
            ),
            CalibrateError::Output(error) => error.fmt(f),
            CalibrateError::Gguf(error) => error.fmt(f),
            CalibrateError::Stopped => write!(f, "stopped"),
        }
    }
}

impl std::error::Error for CalibrateError {}

impl From<ModelError> for CalibrateError {
    fn from(error: ModelError) -> CalibrateError {
        CalibrateError::Model(error)
    }
}

impl From<DecoderError> for CalibrateError {
    fn from(error: DecoderError) -> CalibrateError {
        CalibrateError::Decoder(error)
    }
}

impl From<StepError> for CalibrateError {
    fn from(error: StepError) -> CalibrateError {
        CalibrateError::Step(error)
    }
}

impl From<QuantizeError> for CalibrateError {
    fn from(error: QuantizeError) -> CalibrateError {
        CalibrateError::Quantize(error)
    }
}

impl From<PartFileError> for CalibrateError {
    fn from(error: PartFileError) -> CalibrateError {
        CalibrateError::Output(error)
    }
}

impl From<GgufError> for CalibrateError {
    fn from(error: GgufError) -> CalibrateError {
        CalibrateError::Gguf(error)
    }
}

impl From<OutOfMemory> for CalibrateError {
    fn from(error: OutOfMemory) -> CalibrateError {
        CalibrateError::Decoder(DecoderError::Memory(error))
    }
}
