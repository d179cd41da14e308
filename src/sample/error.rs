//! What can go wrong in sampling.

use std::fmt;

use super::Value;

/// Why parameters are refused or no token can be drawn.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SampleError {
    /// A parameter has a value that it cannot have.
    Param {
        /// [`Param::name`](super::Param::name).
        name: &'static str,
        /// What was asked for.
        value: Value,
        /// What it must be, as in "a number from 0 to 1".
        need: String,
    },
    /// A parameter is set whose filter is not in [`samplers`](super::SampleParams::samplers).
    Unused {
        /// [`Param::name`](super::Param::name).
        name: &'static str,
        /// [`FilterDef::name`](super::FilterDef::name).
        filter: &'static str,
    },
    /// The model's logit of this token is NaN or infinite.
    NotFinite {
        /// Token id.
        token: usize,
    },
    /// There are no logits, or all of them are negative infinity: the model or a mask forbids every
    /// token.
    NothingLeft,
    /// A filter cannot go on.
    Filter {
        /// Its name.
        filter: &'static str,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for SampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param { name, value, need } => write!(f, "`{name}` is {value}: must be {need}"),
            Self::Unused { name, filter } => {
                write!(f, "`{name}` has no effect: `samplers` does not name `{filter}`")
            }
            Self::NotFinite { token } => {
                write!(f, "the model's logit of token {token} is not a finite number")
            }
            Self::NothingLeft => f.write_str("no token is allowed: nothing is left to choose from"),
            Self::Filter { filter, reason } => write!(f, "{filter}: {reason}"),
        }
    }
}

impl std::error::Error for SampleError {}
