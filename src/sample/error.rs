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
    /// Two parameters are set of which each would draw the token.
    Together {
        /// [`Param::name`](super::Param::name) of each.
        names: [&'static str; 2],
    },
    /// A default that the model's file brings along cannot be one.
    File {
        /// Its key.
        key: &'static str,
        /// What it says, in words.
        value: String,
        /// What it must be.
        need: String,
    },
    /// A filter needs the texts of tokens, and there are none.
    NoVocabulary {
        /// Its name.
        filter: &'static str,
    },
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
            Self::Together { names: [a, b] } => write!(f, "`{a}` and `{b}` exclude each other"),
            Self::File { key, value, need } => write!(f, "`{key}` is {value}: must be {need}"),
            Self::NoVocabulary { filter } => {
                write!(f, "{filter}: the texts of tokens are not known")
            }
            Self::Filter { filter, reason } => write!(f, "{filter}: {reason}"),
        }
    }
}

impl std::error::Error for SampleError {}
