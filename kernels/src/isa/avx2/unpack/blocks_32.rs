//! Types in blocks of 32: nibbles, some with a fifth bit, some numbers of a table.

use super::super::mem::load_16;
use super::{Codes32, bits, half, halves};
use crate::block::*;
use std::arch::x86_64::*;

macro_rules! codes_32 {
    ($($block:ident: $offset:literal, $max:literal, $e8m0:literal, |$b:ident| $scales:expr;)*) => {$(
        impl Codes32 for $block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            const E8M0: bool = $e8m0;
            #[inline(always)]
            fn scales(&self) -> [F16; 2] {
                let $b = self;
                $scales
            }
        }
    )*};
}

codes_32! {
    BlockQ4_0: 8, 15, false, |b| [b.d, F16([0; 2])];
    BlockQ4_1: 0, 15, false, |b| [b.d, b.m];
    BlockQ5_0: 16, 31, false, |b| [b.d, F16([0; 2])];
    BlockQ5_1: 0, 31, false, |b| [b.d, b.m];
    BlockMXFP4: 12, 24, true, |b| [F16([b.e, 0]), F16([0; 2])];
}

/// A type's scales of eight blocks.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn scales_8<B: Codes32>(d: [F16; 8]) -> __m256 {
    if !B::E8M0 {
        return halves(d);
    }
    exponents(_mm256_cvtepu16_epi32(load_16(&d)))
}

/// `2^(e - 128)`: the last two are below the least normal number.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn exponents(e: __m256i) -> __m256 {
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
    let denormal = _mm256_sllv_epi32(_mm256_set1_epi32(1 << 21), e);
    let is_normal = _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1));
    _mm256_castsi256_ps(_mm256_blendv_epi8(denormal, normal, is_normal))
}

/// A type's scale of one block.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn scale<B: Codes32>(d: F16) -> f32 {
    if !B::E8M0 {
        return half(d);
    }
    // [`exponents`] of one, in integer registers.
    let e = u32::from(d.0[0]);
    f32::from_bits(if e > 1 { (e - 1) << 23 } else { (1 << 21) << e })
}

/// The codes of Q4_0 and Q4_1: low nibbles, then high ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn nibbles(qs: &[u8; 16]) -> __m256i {
    let low = load_16(qs);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// The codes of Q5_0 and Q5_1.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn nibbles_and_fifth(qs: &[u8; 16], qh: &[u8; 4]) -> __m256i {
    _mm256_or_si256(nibbles(qs), bits(qh, 16))
}

/// The codes of IQ4_NL, and of 32 elements of IQ4_XS: signed.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn iq4(qs: &[u8; 16]) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(&iq4_nl::VALUES)), nibbles(qs))
}

/// Values of the codes of MXFP4 and NVFP4, plus the offset.
pub(in crate::isa) const MXFP4_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = (mxfp4::VALUES[i] as i32 + BlockMXFP4::OFFSET) as u8;
        i += 1;
    }
    codes
};

/// The codes of MXFP4.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn mxfp4(b: &BlockMXFP4) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(&MXFP4_CODES)), nibbles(&b.qs))
}
