//! teff runs GGUF language models on the CPUs people already own.
pub mod backend;
pub mod decoder;
pub mod kv;
pub mod model;
pub mod tensor;
