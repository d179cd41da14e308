//! Loads and stores between arrays and registers: the only unsafe code of the kernels. Lengths
//! are in the types, so nothing can be out of bounds; alignment is free.

use std::arch::x86_64::*;

/// 16 codes.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn load(x: &[i8; 16]) -> __m128i {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

/// Four floats.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn load_ps(x: &[f32; 4]) -> __m128 {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { _mm_loadu_ps(x.as_ptr()) }
}

/// Four floats.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn store_ps(x: &mut [f32; 4], value: __m128) {
    // SAFETY: 16 bytes; the store takes any alignment.
    unsafe { _mm_storeu_ps(x.as_mut_ptr(), value) }
}
