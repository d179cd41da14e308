//! Arithmetic on slices: quantized dot products and float operations, specialized per CPU.
//!
//! [`KernelTable::detect`] picks the best level of the machine at run time; one generic binary
//! serves all. Per weight type [`TypeKernels::matmul`] multiplies native GGUF rows with activations
//! that [`KernelTable::pack`] has laid out as an [`ActPlan`] says; [`FloatOps`] is the rest of a
//! transformer. The scalar level ([`block`], [`float`]) is the specification of every other.
//!
//! Weights are written by [`TypeKernels::quantize`], or in two halves by an [`Encoder`].
//!
//! No threads, no files, no words of models; the only allocation is [`Scratch`].

pub mod act;
pub mod block;
pub mod float;
mod interleave;
mod isa;
pub mod table;

pub use act::{ActFormat, ActPlan, ActUnit, Acts, Layout, PANEL_TOKENS, ROWS_MAX};
pub use block::{Encoder, Group, Scales};
pub use float::{Activation, Ahead, BlockMax, FloatOps, MAX_BLOCK, RopePairing};
pub use isa::{Level, UnknownLevel};
pub use table::{KernelTable, NoEncoder, NoQuantizer, ROW_STEP, Scratch, TypeKernels};

// The tests of matrix products once more inside of the crate, which has levels of its own for them.
#[cfg(test)]
extern crate self as teff_kernels;
#[cfg(test)]
#[path = "../tests/isa_matmul.rs"]
mod isa_matmul;
