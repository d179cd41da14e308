//! Integration tests: one binary, one module per subject.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[cfg(feature = "chat-template")]
mod chat_templates;
mod sampling;
mod tokenizers;
