//! What is wrong with a session's file, part by part.

use super::format::VERSION;
use crate::backend::pages::KvType;
use crate::engine::EngineError;
use gguf_rs_lite::PartFileError;
use std::fmt;
use std::path::Path;

/// Error of a session's file.
#[derive(Debug)]
pub struct SessionFileError {
    /// The file.
    pub path: Box<Path>,
    /// Fault of the file.
    pub fault: SessionFault,
}

/// Fault that keeps a session from being saved or loaded.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionFault {
    /// The system refuses to read.
    Io(std::io::Error),
    /// The file cannot be written.
    Output(PartFileError),
    /// The engine's thread has ended, or there is no memory.
    Engine(EngineError),
    /// More of the caller's own bytes than [`EXTRA_BYTES_MAX`](super::EXTRA_BYTES_MAX).
    TooMuchExtra {
        /// Their number.
        bytes: u64,
    },
    /// The file is no session's.
    NotASession,
    /// The file's format is a later one, or none that was ever written.
    Version {
        /// The format's version.
        version: u32,
    },
    /// The file ends within a part.
    Truncated {
        /// The part.
        part: Part,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are left of the file.
        left: u64,
    },
    /// A part is not as it was written.
    Checksum {
        /// The part.
        part: Part,
    },
    /// A part holds what cannot be.
    Malformed {
        /// The part.
        part: Part,
        /// What is wrong.
        problem: String,
    },
    /// The session was held with another model.
    OtherModel {
        /// Name of that model.
        file: String,
        /// Name of the model at hand.
        here: String,
    },
    /// The session was held with other adapters, or other scales of them.
    OtherAdapters {
        /// Names and scales of those.
        file: Vec<String>,
        /// Names and scales of those at hand.
        here: Vec<String>,
    },
    /// Keys and values are of another type.
    OtherKvType {
        /// Their type.
        file: String,
        /// Type that the engine has.
        here: KvType,
    },
    /// Positions turn keys by other angles, as they do in contexts of other lengths.
    OtherContext {
        /// Tokens in the context that the session had.
        file: u64,
        /// Tokens in the context at hand.
        here: usize,
    },
    /// Pages or states are of other sizes.
    OtherLayout,
    /// The session has more tokens than the context.
    TooLong {
        /// Its tokens.
        n_tokens: usize,
        /// Tokens in the context.
        n_ctx: usize,
    },
}

/// Part of a session's file. Pages and states are counted together, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the file was made with, and how long its parts are.
    Header,
    /// Token ids and the places of answers.
    Tokens,
    /// The caller's own bytes.
    Extra,
    /// A page of keys and values.
    Page(u64),
    /// Recurrent states.
    States(u64),
    /// A page or states, of which it is not known which.
    Record(u64),
    /// The number of pages and states.
    End,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Header => write!(f, "the header"),
            Part::Tokens => write!(f, "the tokens"),
            Part::Extra => write!(f, "the caller's part"),
            Part::Page(number) => write!(f, "page {number}"),
            Part::States(number) => write!(f, "states {number}"),
            Part::Record(number) => write!(f, "record {number}"),
            Part::End => write!(f, "the end"),
        }
    }
}

impl fmt::Display for SessionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionFault::Io(error) => error.fmt(f),
            SessionFault::Output(error) => error.fmt(f),
            SessionFault::Engine(error) => error.fmt(f),
            SessionFault::TooMuchExtra { bytes } => {
                write!(f, "{bytes} bytes beside the tokens are more than a session's file takes")
            }
            SessionFault::NotASession => write!(f, "is no session's file"),
            SessionFault::Version { version } => write!(
                f,
                "has version {version} of the format, this program knows versions up to {VERSION}"
            ),
            SessionFault::Truncated { part, needed, left } => {
                write!(f, "is cut short: {part} takes {needed} bytes, {left} are left")
            }
            SessionFault::Checksum { part } => write!(f, "the checksum of {part} is wrong"),
            SessionFault::Malformed { part, problem } => write!(f, "{part}: {problem}"),
            SessionFault::OtherModel { file, here } => {
                let (file, here) = (file.escape_debug(), here.escape_debug());
                match file.to_string() == here.to_string() {
                    false => write!(f, "made with model `{file}`, not with `{here}`"),
                    true => write!(f, "made with another file of the model `{file}`"),
                }
            }
            SessionFault::OtherAdapters { file, here } => {
                let list = |names: &[String]| match names {
                    [] => "none".to_owned(),
                    names => names.join(", ").escape_debug().to_string(),
                };
                write!(f, "made with adapters: {}; here are: {}", list(file), list(here))
            }
            SessionFault::OtherKvType { file, here } => {
                let file = file.escape_debug();
                write!(f, "its keys and values are of type {file}, those here of type {here}")
            }
            SessionFault::OtherContext { file, here } => write!(
                f,
                "made in a context of {file} tokens, in which positions differ from those in \
                 one of {here}"
            ),
            SessionFault::OtherLayout => {
                write!(f, "its pages have other sizes than this program gives them")
            }
            SessionFault::TooLong { n_tokens, n_ctx } => {
                write!(f, "the session has {n_tokens} tokens and the context holds {n_ctx}")
            }
        }
    }
}

impl fmt::Display for SessionFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            // Names the file itself.
            SessionFault::Output(error) => error.fmt(f),
            fault => write!(f, "{}: {fault}", self.path.display()),
        }
    }
}

impl std::error::Error for SessionFileError {}

impl From<std::io::Error> for SessionFault {
    fn from(error: std::io::Error) -> SessionFault {
        SessionFault::Io(error)
    }
}

impl From<EngineError> for SessionFault {
    fn from(error: EngineError) -> SessionFault {
        SessionFault::Engine(error)
    }
}

impl From<PartFileError> for SessionFault {
    fn from(error: PartFileError) -> SessionFault {
        SessionFault::Output(error)
    }
}

impl From<crate::decoder::StepError> for SessionFault {
    fn from(error: crate::decoder::StepError) -> SessionFault {
        SessionFault::Engine(match error {
            crate::decoder::StepError::Memory(error) => EngineError::Memory(error),
            error => error.into(),
        })
    }
}

impl From<crate::tensor::memory::OutOfMemory> for SessionFault {
    fn from(error: crate::tensor::memory::OutOfMemory) -> SessionFault {
        SessionFault::Engine(EngineError::Memory(error))
    }
}
