//! Types in blocks of several times 32 with codes of one to four bits: Q1_0, Q2_0, NVFP4.

use super::super::mem::{load, load_16};
use super::{Codes16, MXFP4_CODES, bits, halves, nibbles, pairs_of_halves, two_bits};
use crate::block::*;
use std::arch::x86_64::*;

macro_rules! codes_16 {
    ($($block:ident: $offset:literal, $max:literal, $one_scale:literal;)*) => {$(
        impl Codes16 for $block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            const ONE_SCALE: bool = $one_scale;
        }
    )*};
}

codes_16! {
    // Its codes are twice the bits.
    BlockQ1_0: 1, 2, true;
    BlockQ2_0: 1, 3, true;
    BlockNVFP4: 12, 24, false;
}

/// The codes of Q1_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q1_0(b: &BlockQ1_0, j: usize) -> __m256i {
    bits(&b.qs[j], 2)
}

/// The codes of Q2_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q2_0(b: &BlockQ2_0, j: usize) -> __m256i {
    _mm256_and_si256(two_bits(&b.qs[j]), _mm256_set1_epi8(3))
}

/// The codes of NVFP4.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn nvfp4(b: &BlockNVFP4, j: usize) -> __m256i {
    let nibbles = nibbles(&b.qs.as_flattened().as_chunks().0[j]);
    let codes = _mm256_permute4x64_epi64::<0b11_01_10_00>(nibbles);
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(&MXFP4_CODES)), codes)
}

/// The four scales of each of eight blocks of NVFP4, of the words they are.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn of_nvfp4(words: __m256i) -> [__m256; 4] {
    // NaN's code is zero's. The exponent and the mantissa then are those of halves that are 2^7
    // times too small.
    let nan = _mm256_cmpeq_epi8(words, _mm256_set1_epi8(0x7f));
    let (words, fields) = (_mm256_andnot_si256(nan, words), _mm256_set1_epi16(0x7f << 7));
    let even = _mm256_and_si256(_mm256_slli_epi16::<7>(words), fields);
    let odd = _mm256_and_si256(_mm256_srli_epi16::<1>(words), fields);
    let ([a, c], [b, d]) = (pairs_of_halves(even), pairs_of_halves(odd));
    let up = _mm256_set1_ps(128.0);
    [_mm256_mul_ps(a, up), _mm256_mul_ps(b, up), _mm256_mul_ps(c, up), _mm256_mul_ps(d, up)]
}

/// The scales of eight blocks of NVFP4.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn eight_nvfp4(blocks: &[&BlockNVFP4; 8]) -> [__m256; 4] {
    let mut words = [0; 8];
    for r in 0..8 {
        words[r] = i32::from_le_bytes(blocks[r].d);
    }
    of_nvfp4(load(&words))
}

/// The scales of eight blocks that have one each.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn eight_halves<B>(blocks: &[&B; 8], d: impl Fn(&B) -> F16) -> [__m256; 4] {
    let mut halves_8 = [F16([0; 2]); 8];
    for r in 0..8 {
        halves_8[r] = d(blocks[r]);
    }
    [halves(halves_8); 4]
}
