//! Widening of quantized keys and values, and the Hadamard transform: [`crate::float`]'s, eight
//! numbers at a time.

use super::mem::{halves, load_ps, store_ps, store_some};
use crate::float::quantized::{BLOCK, check_lanes, check_rows, distances, hadamard_block};
use crate::float::{self, half_to_f32};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen_lanes_q8_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]) {
    check_lanes(codes.len(), BLOCK, scales.len(), lanes, out.len());
    if !lanes.is_multiple_of(8) {
        return float::widen_lanes_q8_0(codes, scales, lanes, out);
    }
    let blocks = out.chunks_mut(BLOCK * lanes).zip(codes.chunks(BLOCK * lanes));
    for ((out, codes), scales) in blocks.zip(scales.chunks_exact(lanes)) {
        for (g, scale) in halves(scales).as_chunks::<8>().0.iter().enumerate() {
            let scale = super::dense::widen_f16(scale);
            let rows = out.chunks_exact_mut(lanes).zip(codes.chunks_exact(lanes));
            for (out, codes) in rows {
                let codes = signed(bytes(&codes.as_chunks().0[g]));
                store_ps(&mut out.as_chunks_mut().0[g], _mm256_mul_ps(codes, scale));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen_lanes_q4_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]) {
    check_lanes(codes.len(), BLOCK / 2, scales.len(), lanes, out.len());
    if !lanes.is_multiple_of(8) {
        return float::widen_lanes_q4_0(codes, scales, lanes, out);
    }
    let blocks = out.chunks_mut(BLOCK * lanes).zip(codes.chunks(BLOCK / 2 * lanes));
    for ((out, codes), scales) in blocks.zip(scales.chunks_exact(lanes)) {
        let (low, high) = out.split_at_mut(out.len().min(BLOCK / 2 * lanes));
        for (g, scale) in halves(scales).as_chunks::<8>().0.iter().enumerate() {
            let scale = super::dense::widen_f16(scale);
            for (out, codes) in low.chunks_exact_mut(lanes).zip(codes.chunks_exact(lanes)) {
                let codes = signed(low_nibbles(bytes(&codes.as_chunks().0[g])));
                store_ps(&mut out.as_chunks_mut().0[g], _mm256_mul_ps(codes, scale));
            }
            for (out, codes) in high.chunks_exact_mut(lanes).zip(codes.chunks_exact(lanes)) {
                let codes = signed(high_nibbles(bytes(&codes.as_chunks().0[g])));
                store_ps(&mut out.as_chunks_mut().0[g], _mm256_mul_ps(codes, scale));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen_rows_q8_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]) {
    let n_blocks = check_rows(codes.len(), BLOCK, scales.len(), dim, out.len());
    let rows = codes.chunks_exact(n_blocks * BLOCK).zip(scales.chunks_exact(n_blocks));
    for (out, (codes, scales)) in out.chunks_exact_mut(dim).zip(rows) {
        let blocks = out.chunks_mut(BLOCK).zip(codes.as_chunks::<8>().0.chunks_exact(4));
        for ((out, codes), &scale) in blocks.zip(scales) {
            let scale = _mm256_set1_ps(half_to_f32(scale));
            for (out, codes) in out.chunks_mut(8).zip(codes) {
                store(out, _mm256_mul_ps(signed(bytes(codes)), scale));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen_rows_q4_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]) {
    let n_blocks = check_rows(codes.len(), BLOCK / 2, scales.len(), dim, out.len());
    let rows = codes.chunks_exact(n_blocks * BLOCK / 2).zip(scales.chunks_exact(n_blocks));
    for (out, (codes, scales)) in out.chunks_exact_mut(dim).zip(rows) {
        let blocks = out.chunks_mut(BLOCK).zip(codes.as_chunks::<16>().0);
        for ((out, codes), &scale) in blocks.zip(scales) {
            let scale = _mm256_set1_ps(half_to_f32(scale));
            let (a, b) = (bytes(&codes.as_chunks().0[0]), bytes(&codes.as_chunks().0[1]));
            let codes = [low_nibbles(a), low_nibbles(b), high_nibbles(a), high_nibbles(b)];
            for (out, codes) in out.chunks_mut(8).zip(codes) {
                store(out, _mm256_mul_ps(signed(codes), scale));
            }
        }
    }
}

/// Up to eight numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut [f32], x: __m256) {
    match out.first_chunk_mut() {
        Some(out) => store_ps(out, x),
        None => store_some(out, x),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes(x: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*x))
}

/// Eight signed bytes as floats.
#[inline]
#[target_feature(enable = "avx2")]
fn signed(x: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn low_nibbles(x: __m128i) -> __m128i {
    _mm_sub_epi8(_mm_and_si128(x, _mm_set1_epi8(15)), _mm_set1_epi8(8))
}

#[inline]
#[target_feature(enable = "avx2")]
fn high_nibbles(x: __m128i) -> __m128i {
    low_nibbles(_mm_srli_epi16::<4>(x))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn hadamard(x: &mut [f32]) {
    let block = hadamard_block(x.len());
    if block < 8 {
        return float::hadamard(x);
    }
    let factor = _mm256_set1_ps(1.0 / (block as f32).sqrt());
    for x in x.chunks_exact_mut(block) {
        let (groups, _) = x.as_chunks_mut::<8>();
        for x in groups.iter_mut() {
            let x1 = load_ps(x);
            let other = _mm256_permute_ps::<0b10_11_00_01>(x1);
            let x2 = butterfly::<0b1010_1010>(x1, other);
            let other = _mm256_permute_ps::<0b01_00_11_10>(x2);
            let x4 = butterfly::<0b1100_1100>(x2, other);
            let other = _mm256_permute2f128_ps::<1>(x4, x4);
            store_ps(x, butterfly::<0b1111_0000>(x4, other));
        }
        for distance in distances(block / 8) {
            for pair in groups.chunks_exact_mut(2 * distance) {
                let (a, b) = pair.split_at_mut(distance);
                for (a, b) in a.iter_mut().zip(b) {
                    let (x, y) = (load_ps(a), load_ps(b));
                    store_ps(a, _mm256_add_ps(x, y));
                    store_ps(b, _mm256_sub_ps(x, y));
                }
            }
        }
        for x in groups {
            store_ps(x, _mm256_mul_ps(load_ps(x), factor));
        }
    }
}

/// The sums in the lanes that `SECOND` has not, the differences in the others, which hold the
/// second numbers of the pairs.
#[inline]
#[target_feature(enable = "avx2")]
fn butterfly<const SECOND: i32>(x: __m256, other: __m256) -> __m256 {
    _mm256_blend_ps::<SECOND>(_mm256_add_ps(x, other), _mm256_sub_ps(other, x))
}
