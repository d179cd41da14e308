//! Registers of `P` panels, one or two: a token per lane, 8 or 16 of them.
//!
//! The type is that of 16 lanes in both cases; with one panel only the low half is computed, and
//! the casts between the two widths are no instructions.

use crate::isa::avx2::mem::{load, load_ps};
use crate::isa::avx2::panels::Panel;
use std::arch::x86_64::*;

/// The codes of word `k` of block `b`, plus 128.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn codes<const P: usize>(panels: &[Panel<'_>; P], b: usize, k: usize) -> __m512i {
    let first = _mm512_castsi256_si512(load(&panels[0].q[b][k]));
    if P == 1 { first } else { _mm512_inserti64x4::<1>(first, load(&panels[P - 1].q[b][k])) }
}

/// The scales of block `b`.
#[inline]
#[target_feature(enable = "avx512dq")]
pub(super) fn scales<const P: usize>(panels: &[Panel<'_>; P], b: usize) -> __m512 {
    let first = _mm512_castps256_ps512(load_ps(&panels[0].d[b]));
    if P == 1 { first } else { _mm512_insertf32x8::<1>(first, load_ps(&panels[P - 1].d[b])) }
}

/// The pairs of sums of block `b`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn sums<const P: usize>(panels: &[Panel<'_>; P], b: usize) -> __m512i {
    let first = _mm512_castsi256_si512(load(&panels[0].s[b]));
    if P == 1 { first } else { _mm512_inserti64x4::<1>(first, load(&panels[P - 1].s[b])) }
}

/// `acc + codes . w`, four by four.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vl")]
pub(super) fn dot_add<const P: usize>(acc: __m512i, codes: __m512i, w: i32) -> __m512i {
    if P == 1 {
        let (acc, codes) = (_mm512_castsi512_si256(acc), _mm512_castsi512_si256(codes));
        _mm512_castsi256_si512(_mm256_dpbusd_epi32(acc, codes, _mm256_set1_epi32(w)))
    } else {
        _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(w))
    }
}

/// All lanes `x`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn all<const P: usize>(x: i32) -> __m512i {
    if P == 1 { _mm512_castsi256_si512(_mm256_set1_epi32(x)) } else { _mm512_set1_epi32(x) }
}

/// Integers as floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn float<const P: usize>(x: __m512i) -> __m512 {
    if P == 1 {
        _mm512_castps256_ps512(_mm256_cvtepi32_ps(_mm512_castsi512_si256(x)))
    } else {
        _mm512_cvtepi32_ps(x)
    }
}

/// `a * b`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn times<const P: usize>(a: __m512, b: f32) -> __m512 {
    if P == 1 {
        let a = _mm512_castps512_ps256(a);
        _mm512_castps256_ps512(_mm256_mul_ps(a, _mm256_set1_ps(b)))
    } else {
        _mm512_mul_ps(a, _mm512_set1_ps(b))
    }
}

/// `a * b`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn mul<const P: usize>(a: __m512, b: __m512) -> __m512 {
    if P == 1 {
        let (a, b) = (_mm512_castps512_ps256(a), _mm512_castps512_ps256(b));
        _mm512_castps256_ps512(_mm256_mul_ps(a, b))
    } else {
        _mm512_mul_ps(a, b)
    }
}

/// `a * b + c`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn mul_add<const P: usize>(a: __m512, b: __m512, c: __m512) -> __m512 {
    if P == 1 {
        let (a, b) = (_mm512_castps512_ps256(a), _mm512_castps512_ps256(b));
        _mm512_castps256_ps512(_mm256_fmadd_ps(a, b, _mm512_castps512_ps256(c)))
    } else {
        _mm512_fmadd_ps(a, b, c)
    }
}

/// `a * b + c`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn times_add<const P: usize>(a: __m512, b: f32, c: __m512) -> __m512 {
    if P == 1 {
        let (a, c) = (_mm512_castps512_ps256(a), _mm512_castps512_ps256(c));
        _mm512_castps256_ps512(_mm256_fmadd_ps(a, _mm256_set1_ps(b), c))
    } else {
        _mm512_fmadd_ps(a, _mm512_set1_ps(b), c)
    }
}

/// The sums of the pairs of i16 in each lane.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(super) fn pair_sums(pairs: __m512i) -> __m512i {
    _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))
}

/// `-(a * b) + c`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn minus_mul_add<const P: usize>(a: __m512, b: __m512, c: __m512) -> __m512 {
    if P == 1 {
        let (a, b) = (_mm512_castps512_ps256(a), _mm512_castps512_ps256(b));
        _mm512_castps256_ps512(_mm256_fnmadd_ps(a, b, _mm512_castps512_ps256(c)))
    } else {
        _mm512_fnmadd_ps(a, b, c)
    }
}
