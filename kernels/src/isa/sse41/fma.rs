//! Fused multiply-adds without the instruction, four at a time: [`crate::float::fma`] in lanes.

use super::mem::{load_ps, store_ps};
use crate::float::fma::HALFWAY;
use std::arch::x86_64::*;

/// `a * b + c` of each lane, rounded once. Through f64, and the rare lanes where that would round
/// twice by the scalar form.
#[inline]
#[target_feature(enable = "sse4.1")]
pub(super) fn fma_ps(a: __m128, b: __m128, c: __m128) -> __m128 {
    let half = |a, b, c| {
        let product = _mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b));
        _mm_add_pd(product, _mm_cvtps_pd(c))
    };
    let low = half(a, b, c);
    let high = half(_mm_movehl_ps(a, a), _mm_movehl_ps(b, b), _mm_movehl_ps(c, c));
    // The low words of the four sums.
    let words = _mm_shuffle_ps::<0b10_00_10_00>(_mm_castpd_ps(low), _mm_castpd_ps(high));
    let bits = _mm_and_si128(_mm_castps_si128(words), _mm_set1_epi32(HALFWAY as i32));
    if _mm_movemask_epi8(_mm_cmpeq_epi32(bits, _mm_setzero_si128())) == 0 {
        _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high))
    } else {
        one_by_one(a, b, c)
    }
}

#[cold]
#[target_feature(enable = "sse4.1")]
fn one_by_one(a: __m128, b: __m128, c: __m128) -> __m128 {
    let lanes = |x| {
        let mut lanes = [0.0; 4];
        store_ps(&mut lanes, x);
        lanes
    };
    let (a, b, c) = (lanes(a), lanes(b), lanes(c));
    load_ps(&std::array::from_fn(|i| crate::float::fma(a[i], b[i], c[i])))
}
