//! Loads and stores of 64 bytes, as AVX2's of 32.

use std::arch::x86_64::*;

/// Sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_ps(x: &[f32; 16]) -> __m512 {
    // SAFETY: sixteen floats are 64 bytes; the load takes any alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// Sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_ps(x: &mut [f32; 16], value: __m512) {
    // SAFETY: sixteen floats are 64 bytes; the store takes any alignment.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), value) }
}
