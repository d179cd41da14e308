//! Native blocks to codes and scales in registers.
//!
//! Codes come unsigned, 32 to a register in the order of the elements; a type's `OFFSET` is what
//! is to be taken off them.

use super::mem::{load, load_16};
use crate::block::*;
use std::arch::x86_64::*;

/// A type in blocks of 32 whose codes have at most 5 bits.
pub(super) trait Codes32: Block32 {
    /// Value = d * (code - OFFSET) + m.
    const OFFSET: i32;
    /// The largest code.
    const MAX: i32;
    /// Scale and minimum.
    fn scales(&self) -> [F16; 2];
}

/// A type in blocks of 256.
pub(super) trait Codes256: Block256 {
    /// Value = d * scale * (code - OFFSET) - dmin * min.
    const OFFSET: i32;
    /// Whether scales cover 32 elements instead of 16.
    const WIDE: bool;
    /// What panels take off the codes, so that their products fit.
    const PANEL_OFFSET: i32;
    /// Scale of the scales and of the minimums.
    fn d(&self) -> [F16; 2];
}

/// The scales and minimums of a block of 256 as 16 i16, one per 16 elements.
pub(super) struct Scales {
    pub scales: __m256i,
    pub mins: __m256i,
}

macro_rules! codes_32 {
    ($($block:ident: $offset:literal, $max:literal, |$b:ident| $scales:expr;)*) => {$(
        impl Codes32 for $block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            #[inline(always)]
            fn scales(&self) -> [F16; 2] {
                let $b = self;
                $scales
            }
        }
    )*};
}

codes_32! {
    BlockQ4_0: 8, 15, |b| [b.d, F16([0; 2])];
    BlockQ4_1: 0, 15, |b| [b.d, b.m];
    BlockQ5_0: 16, 31, |b| [b.d, F16([0; 2])];
    BlockQ5_1: 0, 31, |b| [b.d, b.m];
}

macro_rules! codes_256 {
    ($($block:ident: $offset:literal, $wide:literal, $panel:literal, |$b:ident| $d:expr;)*) => {$(
        impl Codes256 for $block {
            const OFFSET: i32 = $offset;
            const WIDE: bool = $wide;
            const PANEL_OFFSET: i32 = $panel;
            #[inline(always)]
            fn d(&self) -> [F16; 2] {
                let $b = self;
                $d
            }
        }
    )*};
}

codes_256! {
    BlockQ2K: 0, false, 0, |b| [b.d, b.dmin];
    BlockQ3K: 4, false, 4, |b| [b.d, F16([0; 2])];
    BlockQ4K: 0, true, 0, |b| [b.d, b.dmin];
    BlockQ5K: 0, true, 16, |b| [b.d, b.dmin];
    BlockQ6K: 32, false, 32, |b| [b.d, F16([0; 2])];
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
pub(super) fn half(h: F16) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(h.0).into())))
}

/// The codes of Q4_0 and Q4_1: low nibbles, then high ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn nibbles(qs: &[u8; 16]) -> __m256i {
    let low = load_16(qs);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// The codes of Q5_0 and Q5_1.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn nibbles_and_fifth(qs: &[u8; 16], qh: &[u8; 4]) -> __m256i {
    // Byte i gets byte i / 8 of `qh`, of which bit i % 8 is to be found.
    let spread =
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let qh = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*qh)), spread);
    let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(qh, bit), bit);
    _mm256_or_si256(nibbles(qs), _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
}

/// Q2_K: register `j` holds the codes of elements `32j..32j + 32`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn q2_k(b: &BlockQ2K) -> ([__m256i; 8], Scales) {
    let mut codes = [_mm256_setzero_si256(); 8];
    let low = _mm256_set1_epi8(3);
    let (qs, _) = b.qs.as_chunks::<32>();
    for (h, qs) in qs.iter().enumerate() {
        let q = load(qs);
        codes[4 * h] = _mm256_and_si256(q, low);
        codes[4 * h + 1] = _mm256_and_si256(_mm256_srli_epi16::<2>(q), low);
        codes[4 * h + 2] = _mm256_and_si256(_mm256_srli_epi16::<4>(q), low);
        codes[4 * h + 3] = _mm256_and_si256(_mm256_srli_epi16::<6>(q), low);
    }
    let both = load_16(&b.scales);
    let low = _mm_set1_epi8(15);
    let scales = Scales {
        scales: _mm256_cvtepu8_epi16(_mm_and_si128(both, low)),
        mins: _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(both), low)),
    };
    (codes, scales)
}

/// Q3_K, as [`q2_k`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn q3_k(b: &BlockQ3K) -> ([__m256i; 8], Scales) {
    let mut codes = [_mm256_setzero_si256(); 8];
    let (low, third) = (_mm256_set1_epi8(3), _mm256_set1_epi8(4));
    let hmask = load(&b.hmask);
    let (qs, _) = b.qs.as_chunks::<32>();
    for (h, qs) in qs.iter().enumerate() {
        let q = load(qs);
        // The third bits of this half's planes in bits 0..4.
        let high = if h == 0 { hmask } else { _mm256_srli_epi16::<4>(hmask) };
        let merge = |low, high| _mm256_or_si256(low, _mm256_and_si256(high, third));
        codes[4 * h] = merge(_mm256_and_si256(q, low), _mm256_slli_epi16::<2>(high));
        let q_1 = _mm256_and_si256(_mm256_srli_epi16::<2>(q), low);
        codes[4 * h + 1] = merge(q_1, _mm256_slli_epi16::<1>(high));
        codes[4 * h + 2] = merge(_mm256_and_si256(_mm256_srli_epi16::<4>(q), low), high);
        let q_3 = _mm256_and_si256(_mm256_srli_epi16::<6>(q), low);
        codes[4 * h + 3] = merge(q_3, _mm256_srli_epi16::<1>(high));
    }
    // Sixteen 6-bit scales; see the scalar `unpack_scales`.
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| b.scales[4 * i + j]));
    let (a, b, top) = (word(0), word(1), word(2));
    let (nibble, two) = (0x0f0f_0f0f, 0x0303_0303);
    let scales = [
        a & nibble | (top & two) << 4,
        b & nibble | (top >> 2 & two) << 4,
        a >> 4 & nibble | (top >> 4 & two) << 4,
        b >> 4 & nibble | (top >> 6 & two) << 4,
    ];
    let [a, b, c, d] = scales.map(|s| s as i32);
    let scales = _mm_sub_epi8(_mm_setr_epi32(a, b, c, d), _mm_set1_epi8(32));
    (codes, Scales { scales: _mm256_cvtepi8_epi16(scales), mins: _mm256_setzero_si256() })
}

/// Q4_K, as [`q2_k`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn q4_k(b: &BlockQ4K) -> ([__m256i; 8], Scales) {
    let mut codes = [_mm256_setzero_si256(); 8];
    let low = _mm256_set1_epi8(15);
    let (qs, _) = b.qs.as_chunks::<32>();
    for (j, qs) in qs.iter().enumerate() {
        let q = load(qs);
        codes[2 * j] = _mm256_and_si256(q, low);
        codes[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16::<4>(q), low);
    }
    (codes, scales_and_mins(&b.scales))
}

/// Q5_K, as [`q2_k`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn q5_k(b: &BlockQ5K) -> ([__m256i; 8], Scales) {
    let mut codes = [_mm256_setzero_si256(); 8];
    let (low, fifth) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
    let qh = load(&b.qh);
    let (qs, _) = b.qs.as_chunks::<32>();
    for (j, qs) in qs.iter().enumerate() {
        let q = load(qs);
        // Bits 2j and 2j + 1 of `qh` to bit 4.
        let [even, odd] = match j {
            0 => [_mm256_slli_epi16::<4>(qh), _mm256_slli_epi16::<3>(qh)],
            1 => [_mm256_slli_epi16::<2>(qh), _mm256_slli_epi16::<1>(qh)],
            2 => [qh, _mm256_srli_epi16::<1>(qh)],
            _ => [_mm256_srli_epi16::<2>(qh), _mm256_srli_epi16::<3>(qh)],
        };
        let merge =
            |q, high| _mm256_or_si256(_mm256_and_si256(q, low), _mm256_and_si256(high, fifth));
        codes[2 * j] = merge(q, even);
        codes[2 * j + 1] = merge(_mm256_srli_epi16::<4>(q), odd);
    }
    (codes, scales_and_mins(&b.scales))
}

/// Q6_K, as [`q2_k`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn q6_k(b: &BlockQ6K) -> ([__m256i; 8], Scales) {
    let mut codes = [_mm256_setzero_si256(); 8];
    let (low, top) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let ((ql, _), (qh, _)) = (b.ql.as_chunks::<32>(), b.qh.as_chunks::<32>());
    for (h, qh) in qh.iter().enumerate() {
        let (a, b, high) = (load(&ql[2 * h]), load(&ql[2 * h + 1]), load(qh));
        let merge =
            |q, high| _mm256_or_si256(_mm256_and_si256(q, low), _mm256_and_si256(high, top));
        codes[4 * h] = merge(a, _mm256_slli_epi16::<4>(high));
        codes[4 * h + 1] = merge(b, _mm256_slli_epi16::<2>(high));
        codes[4 * h + 2] = merge(_mm256_srli_epi16::<4>(a), high);
        codes[4 * h + 3] = merge(_mm256_srli_epi16::<4>(b), _mm256_srli_epi16::<2>(high));
    }
    let scales = _mm256_cvtepi8_epi16(load_16(&b.scales));
    (codes, Scales { scales, mins: _mm256_setzero_si256() })
}

/// Sixteen scales in the order in which [`SCALE_PAIRS`] finds them.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn even_odd(scales: __m256i) -> __m256i {
    let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
    ));
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(scales, order))
}

/// Shuffles for [`even_odd`] scales: by mask `j` those of elements `32j..32j + 16` fill the low
/// half, those of the next 16 the high one.
pub(super) static SCALE_PAIRS: [[u8; 32]; 8] = {
    let mut masks = [[0; 32]; 8];
    let mut i = 0;
    while i < 8 * 32 {
        masks[i / 32][i % 32] = (i / 32 * 2 + i % 2) as u8;
        i += 1;
    }
    masks
};

/// The eight scales and minimums of Q4_K and Q5_K, each twice.
#[inline]
#[target_feature(enable = "avx2")]
fn scales_and_mins(packed: &[u8; 12]) -> Scales {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| packed[4 * i + j]));
    let (a, b, c) = (word(0), word(1), word(2));
    let (six, nibble, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let scales = [a & six, c & nibble | (a >> 6 & two) << 4];
    let mins = [b & six, c >> 4 & nibble | (b >> 6 & two) << 4];
    let twice = |[low, high]: [u32; 2]| {
        let bytes = _mm_cvtsi64_si128((u64::from(low) | u64::from(high) << 32) as i64);
        _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes))
    };
    Scales { scales: twice(scales), mins: twice(mins) }
}
