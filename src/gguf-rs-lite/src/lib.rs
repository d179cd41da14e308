//! Bytes <-> GGUF: a zero-copy reader and a streaming writer.
mod ggml_type;
pub use ggml_type::GgmlType;
