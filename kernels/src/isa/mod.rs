//! Levels of instruction sets and their kernels: a folder per level, a file per algorithm.
//!
//! A level's kernels are safe functions with `#[target_feature]`. They are called through the
//! function pointers of its table, which it hands out only against its token; a token exists only if
//! [`detect`] has found the features. [`select`] chooses among the tables.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512vbmi2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512vnni;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avxvnni;
pub(crate) mod detect;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_dot;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_i8mm;
pub(crate) mod scalar;
mod select;
#[cfg(target_arch = "x86_64")]
pub(crate) mod sse41;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tokens;

pub use detect::{Level, UnknownLevel};
