//! The exponential of eight floats: [`crate::float`]'s, operation by operation.

use crate::float::exp::{LN_2_HIGH, LN_2_LOW, P, X_MAX, X_MIN};
use std::arch::x86_64::*;

/// `exp(x)`, within 2 ulp over the whole range.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp(x: __m256) -> __m256 {
    // Both return their second operand for NaN.
    let x = _mm256_min_ps(_mm256_set1_ps(X_MAX), x);
    let x = _mm256_max_ps(_mm256_set1_ps(X_MIN), x);
    let (p, n) = parts(x);
    let half = _mm256_srai_epi32::<1>(n);
    _mm256_mul_ps(_mm256_mul_ps(p, power(half)), power(_mm256_sub_epi32(n, half)))
}

/// [`exp`] for `x` from [`LIGHT`](crate::float::softmax::LIGHT) to 0, where results are normal numbers and one factor
/// makes them.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp_normal(x: __m256) -> __m256 {
    let (p, n) = parts(x);
    _mm256_mul_ps(p, power(n))
}

/// `2^n` for `-126 <= n <= 127`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn power(n: __m256i) -> __m256 {
    let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

/// `p` and `n` for which `exp(x)` is `p 2^n`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn parts(x: __m256) -> (__m256, __m256i) {
    let n = _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2_HIGH), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2_LOW), r);
    let mut p = _mm256_set1_ps(P[0]);
    for c in &P[1..] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*c));
    }
    let one = _mm256_set1_ps(1.0);
    let p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), one);
    (p, _mm256_cvtps_epi32(n))
}
