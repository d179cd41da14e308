//! Arithmetic on slices: quantized dot products and float operations, specialized per CPU.
pub mod block;
pub mod float;
