//! Native blocks to codes and scales in registers.
//!
//! Codes come unsigned, 32 to a register in the order of the elements; a type's `OFFSET` is what
//! is to be taken off them. Of a super-block, register `j` is elements `32j..32j + 32`; callers
//! unroll their loops, so that `j` is a constant and all shifts are immediate.
//!
//! Here is what the types have in common; each class of them is a file. IQ1 to IQ3 are in
//! [`super::codebook`].

mod blocks_16;
mod blocks_32;
mod k_quants;
mod ternary;
mod wide;

use super::mem::{load_8, load_16};
use crate::block::*;
use std::arch::x86_64::*;

pub(super) use blocks_16::{eight_halves, eight_nvfp4, of_nvfp4};
pub(in crate::isa) use blocks_16::{nvfp4, q1_0, q2_0};
pub(in crate::isa) use blocks_32::{MXFP4_CODES, iq4, mxfp4, nibbles, nibbles_and_fifth};
pub(super) use blocks_32::{exponents, scale, scales_8};
pub(super) use k_quants::{
    eight_q2_k, eight_q3_k, eight_q6_k, eight_scales_and_mins, of_q2_k, of_q3_k, of_q6_k,
    of_scales_and_mins,
};
pub(in crate::isa) use k_quants::{
    q2_k, q3_k, q4_k, q5_k, q6_k, scales_and_mins, scales_q2_k, scales_q3_k, scales_q6_k,
};
pub(in crate::isa) use ternary::{TWO_TRITS, scales_of_one, tq1_0, tq2_0};
pub(super) use ternary::{eight_of_one, of_one, trits};
pub(in crate::isa) use wide::{Wide256, halves_swapped, iq4_xs_codes, scales_iq4_xs};
pub(super) use wide::{iq4_xs, of_expanded, of_iq4_xs, pair_order};

/// A type in blocks of 32 whose codes have at most 5 bits.
pub(in crate::isa) trait Codes32: Block32 {
    /// Value = d * (code - OFFSET) + m.
    const OFFSET: i32;
    /// The largest code.
    const MAX: i32;
    /// Whether the scale is no half but an exponent, in the first byte.
    const E8M0: bool;
    /// Scale and minimum.
    fn scales(&self) -> [F16; 2];
}

/// A type in blocks of several times 32 whose codes have at most 5 bits.
pub(in crate::isa) trait Codes16: Block16 {
    /// Value = d * (code - OFFSET).
    const OFFSET: i32;
    /// The largest code.
    const MAX: i32;
    /// Whether a block has one scale, not one per 16.
    const ONE_SCALE: bool;
    /// Parts of 32.
    const PARTS: usize = Self::LEN / 32;

    /// The number of the scale, in the block or its repetitions, of the `half`th 16 codes of part `j`.
    #[inline(always)]
    fn scale_of(j: usize, half: usize) -> usize {
        if Self::ONE_SCALE { 0 } else { 2 * j + half }
    }
}

/// A type in blocks of 256, with codes that are unsigned less an offset.
pub(in crate::isa) trait Unsigned256: Block256 {
    /// Value = d * scale * (code - OFFSET) - dmin * min.
    const OFFSET: i32;
    /// The largest code.
    const MAX: i32;
    /// Whether every `scale` is 1.
    const ONE_SCALE: bool = false;
}

/// A type in files' blocks of 256.
pub(in crate::isa) trait Codes256: Unsigned256 {
    /// Scale of the scales and of the minimums.
    fn d(&self) -> [F16; 2];
}

/// A type in super-blocks of 256 with signed codes and no minimum.
pub(in crate::isa) trait Signed256: Block256 {
    /// The largest magnitude of a code.
    const MAX: i32;
}

/// The scales and minimums of a super-block as 16 i16, one per 16 elements.
pub(in crate::isa) struct Scales {
    pub scales: __m256i,
    pub mins: __m256i,
}

/// The scales of eight super-blocks, one of each of eight rows: byte `i` of word `r` in register
/// `w` belongs to group `4w + i` of row `r`. There are 8 or 16 groups. Scales that are all 1 are not
/// in it.
pub(super) struct EightScales {
    pub scales: [__m256i; 4],
    pub mins: [__m256i; 4],
    pub d: __m256,
    pub dmin: __m256,
}

/// The bits of eight halves as floats.
#[inline]
#[target_feature(enable = "avx,f16c")]
pub(super) fn halves(h: [F16; 8]) -> __m256 {
    _mm256_cvtph_ps(load_16(&h))
}

/// One half as a float.
#[inline]
#[target_feature(enable = "avx,f16c")]
pub(in crate::isa) fn half(h: F16) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(h.0).into())))
}

/// The first and the second halves of eight pairs.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn pairs_of_halves(pairs: __m256i) -> [__m256; 2] {
    // Of each 128 bits first the low 16 bits of its words, then the high ones.
    let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
    ));
    let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(pairs, order));
    [
        _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
        _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
    ]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves_8<B: Codes256>(blocks: &[&B; 8]) -> [__m256; 2] {
    let (mut d, mut dmin) = ([F16([0; 2]); 8], [F16([0; 2]); 8]);
    for r in 0..8 {
        [d[r], dmin[r]] = blocks[r].d();
    }
    [halves(d), halves(dmin)]
}

/// `value` for each bit that is set.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn bits(bits: &[u8; 4], value: i8) -> __m256i {
    // Byte i gets byte i / 8 of the bits, of which bit i % 8 is to be found.
    let spread =
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bits = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*bits)), spread);
    _mm256_and_si256(bits_set(bits), _mm256_set1_epi8(value))
}

/// All bits of byte `i` are those of bit `i % 8` of it.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn bits_set(bytes: __m256i) -> __m256i {
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
}

/// 32 numbers of two bits, a byte each: what is above these two bits is of no use.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn two_bits(bytes: &[u8; 8]) -> __m256i {
    // A byte's four numbers, from bit 2i on, to bit 8i.
    let x = _mm256_cvtepu8_epi32(load_8(bytes));
    let x = _mm256_or_si256(x, _mm256_slli_epi32::<12>(x));
    _mm256_or_si256(x, _mm256_slli_epi32::<6>(x))
}

/// `x >> right`, bits of neighbouring bytes coming in; to the left if negative.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn shifted(x: __m256i, right: i32) -> __m256i {
    let count = _mm_cvtsi32_si128(right.abs());
    if right < 0 { _mm256_sll_epi16(x, count) } else { _mm256_srl_epi16(x, count) }
}
