//! Text in and out of a model: prompts, tokenizer, streaming detokenizer, stop strings, chat
//! template.
//!
//! Everything is built from GGUF metadata, which is untrusted: sizes are bounded, hashing is
//! keyed, pattern matching is linear-time, templates run on fuel.

#[cfg(feature = "chat-template")]
mod answer;
#[cfg(feature = "chat-template")]
mod chat_template;
mod error;
#[cfg(feature = "chat-template")]
mod jinja;
#[cfg(feature = "chat-template")]
mod prompt;
mod stop;
mod stream;
#[cfg(feature = "chat-template")]
mod templates;
#[cfg(feature = "chat-template")]
mod thinking;
mod tokenizer;

#[cfg(feature = "chat-template")]
pub use answer::{Answer, AnswerDelta, AnswerFormat, AnswerParser, ToolCall, Tools, on_one_line};
#[cfg(feature = "chat-template")]
pub use chat_template::{ChatTemplate, Message, Rendered, TEMPLATE_BYTES_MAX};
pub use error::TextError;
#[cfg(feature = "serve")]
pub(crate) use jinja::strftime;
#[cfg(feature = "chat-template")]
pub use jinja::{JinjaError, JinjaErrorKind};
#[cfg(feature = "chat-template")]
pub use prompt::{Prompt, Prompter};
pub use stop::{Released, STOP_BYTES_MAX, STOP_STRINGS_MAX, StopError, StopStrings};
pub use stream::{TextStream, Utf8Buffer};
#[cfg(feature = "chat-template")]
pub use templates::{BUILTIN_TEMPLATES, BuiltinTemplate, builtin_names, builtin_template};
#[cfg(feature = "chat-template")]
pub use thinking::{EFFORTS, effort_variables, thinking_variables};
#[cfg(feature = "convert")]
pub(crate) use tokenizer::byte_alphabet;
pub use tokenizer::{EncodeOptions, TEXT_BYTES_MAX, Tokenizer, is_pre_tokenizer};
