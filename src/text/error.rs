//! Errors between text and tokens.

use std::fmt;

/// Errors of this room; each names the metadata key, token or template at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// The file has no such key.
    MissingKey(&'static str),
    /// The key's value has another type or shape than it must have.
    BadKey {
        /// Metadata key.
        key: &'static str,
        /// Expected value.
        need: String,
    },
    /// `tokenizer.ggml.model` names an algorithm that is not built yet.
    UnsupportedModel(String),
    /// `tokenizer.ggml.pre` names no known pre-tokenizer, and guessing would give wrong tokens.
    UnknownPre(String),
    /// Two ids have the same text, so that text has no one id.
    DuplicateToken {
        /// The token's text.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// The file carries no vocabulary (`tokenizer.ggml.model` is `none`).
    NoVocabulary,
    /// The text holds something the vocabulary cannot express, and there is no unknown token.
    Unencodable {
        /// The character.
        character: char,
    },
    /// The text is longer than [`TEXT_BYTES_MAX`](super::TEXT_BYTES_MAX).
    TextTooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// The text has more tokens than a prompt may have, however it is cut.
    TooManyTokens {
        /// Tokens that it has at least.
        at_least: usize,
        /// Tokens that a prompt may have.
        max: usize,
    },
    /// The chat template does not parse, or fails on these messages.
    #[cfg(feature = "chat-template")]
    Template(super::jinja::JinjaError),
    /// A conversation for a model without a chat template.
    NoTemplate,
    /// The chat template shows nothing of a message.
    MessageLost {
        /// Index of the message, from 0.
        message: usize,
        /// Role of the message.
        role: String,
    },
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingKey(key) => write!(f, "metadata key `{key}` is missing"),
            Self::BadKey { key, need } => write!(f, "metadata key `{key}` must be {need}"),
            Self::UnsupportedModel(name) => {
                write!(f, "unsupported tokenizer model `{name}` (tokenizer.ggml.model)")
            }
            Self::UnknownPre(name) => {
                write!(f, "unknown pre-tokenizer `{name}` (tokenizer.ggml.pre)")
            }
            Self::DuplicateToken { text, first, second } => {
                write!(f, "tokenizer.ggml.tokens: ids {first} and {second} are both {text:?}")
            }
            Self::NoVocabulary => f.write_str("the file has no vocabulary; only token ids work"),
            Self::Unencodable { character } => {
                write!(f, "the vocabulary has no token for {character:?} and no unknown token")
            }
            Self::TextTooLong { bytes } => {
                write!(f, "text of {bytes} bytes: at most {} at a time", super::TEXT_BYTES_MAX)
            }
            Self::TooManyTokens { at_least, max } => {
                write!(f, "the text has at least {at_least} tokens: at most {max} fit")
            }
            #[cfg(feature = "chat-template")]
            Self::Template(error) => write!(f, "chat template: {error}"),
            Self::NoTemplate => {
                f.write_str("the model has no chat template: it can only continue a text")
            }
            Self::MessageLost { message, role } => write!(
                f,
                "chat template: it shows nothing of message {} (role `{role}`)",
                message + 1
            ),
        }
    }
}

impl std::error::Error for TextError {}
