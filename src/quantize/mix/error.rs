//! Errors of the choice of types.

use std::fmt;

/// Error of a choice of types that cannot be made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MixError {
    /// A key that rules ask for is missing or has no number.
    Key(String),
    /// A tensor of a model with experts is in none of its layers.
    Layer {
        /// The tensor.
        name: String,
        /// Layers of the model.
        layers: u64,
    },
    /// A pattern that finds none of the model's tensors.
    NoTensor(String),
    /// A pattern that is no regular expression.
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl std::error::Error for MixError {}

impl fmt::Display for MixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MixError::Key(key) => {
                write!(f, "key `{key}`, which the choice of types asks for, is missing or unusable")
            }
            MixError::Layer { name, layers } => {
                write!(f, "tensor {name:?} is in none of the model's {layers} layers")
            }
            MixError::NoTensor(pattern) => {
                write!(f, "the model has no tensor whose name {pattern:?} finds")
            }
            MixError::Pattern { pattern, reason } => {
                write!(f, "{pattern:?} is no regular expression: {reason}")
            }
        }
    }
}
