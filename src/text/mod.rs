//! Text in and out of a model: tokenizer, streaming detokenizer, chat template.
//!
//! Everything is built from GGUF metadata, which is untrusted: sizes are bounded, hashing is
//! keyed, pattern matching is linear-time, templates run on fuel.

#[cfg(feature = "chat-template")]
mod chat_template;
mod error;
mod stream;
mod tokenizer;

#[cfg(feature = "chat-template")]
pub use chat_template::{ChatTemplate, Message, TEMPLATE_BYTES_MAX};
pub use error::TextError;
pub use stream::{TextStream, Utf8Buffer};
pub use tokenizer::{EncodeOptions, TEXT_BYTES_MAX, Tokenizer};
