#![doc = include_str!("ARCHITECTURE.md")]

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
