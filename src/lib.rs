//! teff runs GGUF language models on the CPUs people already own.

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
