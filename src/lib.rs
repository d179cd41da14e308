#![doc = include_str!("ARCHITECTURE.md")]
#![doc = include_str!("EXAMPLES.md")]

pub mod backend;
#[cfg(feature = "cli")]
pub mod cache;
#[cfg(feature = "cli")]
pub mod cli;
pub mod decoder;
pub mod engine;
pub mod kv;
pub mod model;
pub mod sample;
pub mod tensor;
pub mod text;

pub use engine::{
    Answer, AnswerEvent, CancelToken, Engine, EngineError, EngineOptions, FinishReason, Model,
    Request, Runner, Scheduler, Session, Stats, TokenEvent,
};
