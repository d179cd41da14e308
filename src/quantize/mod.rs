//! GGUF files of other types from GGUF files: what `teff quantize` does, as a library.
//!
//! [`imatrix`] is how much an error in each column of a weight counts, [`collect`] how that is found out,
//! [`mix`] which type each tensor
//! gets.

pub mod collect;
pub mod imatrix;
pub mod mix;
