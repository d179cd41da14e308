//! teff runs GGUF language models on the CPUs people already own.

pub mod sample;
pub mod text;
