#![doc = include_str!("ARCHITECTURE.md")]
#![doc = include_str!("EXAMPLES.md")]

// Compiles the front page's Rust.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub mod backend;
#[cfg(feature = "cache")]
pub mod cache;
pub mod calibrate;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "convert")]
pub mod convert;
pub mod decoder;
pub mod engine;
pub mod eval;
pub mod grid;
pub mod kv;
pub mod model;
pub mod quantize;
mod random;
pub mod receipt;
pub mod sample;
#[cfg(feature = "serve")]
pub mod serve;
pub mod tensor;
pub mod text;
pub mod tune;
pub mod workers;

#[cfg(feature = "chat-template")]
pub use engine::Chat;
pub use engine::{
    Answer, AnswerEvent, CancelToken, Engine, EngineError, EngineOptions, FinishReason, Model,
    Request, Runner, Scheduler, Session, Stats, TokenEvent,
};
