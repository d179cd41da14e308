//! Sums across lanes, eight registers at a time: a tree of adds and shuffles turns eight partial
//! sums into one register with a total per lane, in 21 instructions.

use std::arch::x86_64::*;

/// Lane `i` of the result is the sum of the eight i32 of `p[i]`.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn sum_8(p: &[__m256i; 8]) -> __m256i {
    let a = sum_4(p[0], p[1], p[2], p[3]);
    let b = sum_4(p[4], p[5], p[6], p[7]);
    let (straight, crossed) = cross_128(a, b);
    _mm256_add_epi32(straight, crossed)
}

/// [`sum_8`] down to one pair of i16 sums per 32 bits, adding in i16 (wrapping): the last two
/// results hold `p[0..4]` and `p[4..8]`, the low and high 128 bits of each apart.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pairs_by_half(p: &[__m256i; 8]) -> [__m256i; 2] {
    [pairs_4(p[0], p[1], p[2], p[3]), pairs_4(p[4], p[5], p[6], p[7])]
}

/// The sums of the four i32 of each half, word by word.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn sum_4(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let (straight, crossed) = cross_64(ab, cd);
    _mm256_add_epi32(straight, crossed)
}

/// [`sum_4`] of pairs of i16.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pairs_4(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    let ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let (straight, crossed) = cross_64(ab, cd);
    _mm256_add_epi16(straight, crossed)
}

/// Lane `i` of the result is a pair of i16 (wrapping) sums: of the even i16 of `p[i]` and of the
/// odd ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pairs_8(p: &[__m256i; 8]) -> __m256i {
    let [a, b] = pairs_by_half(p);
    let (straight, crossed) = cross_128(a, b);
    _mm256_add_epi16(straight, crossed)
}

/// Low 64 bits of `a` and high ones of `b`, then the other two, in each half.
#[inline]
#[target_feature(enable = "avx2")]
fn cross_64(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    (_mm256_blend_epi32::<0b1100_1100>(a, b), _mm256_alignr_epi8::<8>(b, a))
}

/// The low half of `a` and the high one of `b`, then the other two.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn cross_128(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    (_mm256_blend_epi32::<0b1111_0000>(a, b), _mm256_permute2x128_si256::<0x21>(a, b))
}

/// The sum of eight i32.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn sum_lanes(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x));
    _mm_cvtsi128_si32(x)
}

#[inline]
#[target_feature(enable = "avx")]
fn fold_half(x: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

/// The sum of eight floats in the order of [`crate::float`]: halves folded three times.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn sum_ps(x: __m256) -> f32 {
    let x = fold_half(x);
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// [`sum_ps`] of four registers, in the four lanes.
#[inline]
#[target_feature(enable = "avx")]
pub(in crate::isa) fn sum_4_ps(x: &[__m256; 4]) -> __m128 {
    let (mut a, mut b) = (fold_half(x[0]), fold_half(x[1]));
    let (mut c, mut d) = (fold_half(x[2]), fold_half(x[3]));
    _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
    _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d))
}

/// Word `j` of register `i` to word `i` of register `j`, in each half.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose_4(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}
