//! Loads and stores of 64 bytes, as AVX2's of 32.

use std::arch::x86_64::*;

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::isa) fn load(x: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes; the load takes any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::isa) fn store(x: &mut [u8; 64], value: __m512i) {
    // SAFETY: 64 bytes; the store takes any alignment.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), value) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::isa) fn load_32(x: &[u8; 32]) -> __m256i {
    crate::isa::avx2::mem::load(x)
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn load_16(x: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

/// Four bytes, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::isa) fn spread(x: &[i8; 4]) -> __m512i {
    // SAFETY: four bytes; the read takes any alignment.
    _mm512_set1_epi32(unsafe { x.as_ptr().cast::<i32>().read_unaligned() })
}

/// Eight bytes, in every two lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn spread_8(x: &[i8; 8]) -> __m512i {
    // SAFETY: eight bytes; the read takes any alignment.
    _mm512_set1_epi64(unsafe { x.as_ptr().cast::<i64>().read_unaligned() })
}

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
