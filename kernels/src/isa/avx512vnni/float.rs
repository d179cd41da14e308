//! Sums of exponentials over a whole vocabulary, sixteen lanes at a time, with AVX2's bits: the lower
//! eight lanes of a register are the group before the upper eight.

use super::mem::load_ps;
use crate::float::exp::{LN_2_HIGH, LN_2_LOW, P};
use crate::float::softmax::{ExpMoments, LIGHT};
use crate::isa::avx2::mem::store_ps;
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
pub(super) fn exp_moments(x: &[f32], max: f32) -> [f32; 2] {
    let (groups, tail) = x.as_chunks::<16>();
    let (all_max, light) = (_mm512_set1_ps(max), _mm512_set1_ps(LIGHT));
    let (mut sums, mut products) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for x in groups {
        // NaN is not less, and the second operand of a minimum and a maximum.
        let d = _mm512_min_ps(_mm512_setzero_ps(), _mm512_sub_ps(load_ps(x), all_max));
        let counts = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(d, light);
        let d = _mm512_max_ps(light, d);
        let e = _mm512_maskz_mov_ps(counts, exp(d));
        let (low_e, high_e) = (_mm512_castps512_ps256(e), _mm512_extractf32x8_ps::<1>(e));
        let (low_d, high_d) = (_mm512_castps512_ps256(d), _mm512_extractf32x8_ps::<1>(d));
        sums = _mm256_add_ps(_mm256_add_ps(sums, low_e), high_e);
        products = _mm256_fmadd_ps(high_e, high_d, _mm256_fmadd_ps(low_e, low_d, products));
    }
    let mut moments = ExpMoments::default();
    store_ps(&mut moments.sums, sums);
    store_ps(&mut moments.products, products);
    let (group, tail) = tail.split_at(tail.len() / 8 * 8);
    moments.add(group, max);
    moments.finish(tail, max)
}

/// `exp(x)` for `x` from [`LIGHT`] to 0: AVX2's bits, as results are normal numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let n = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_LOW), r);
    let mut p = _mm512_set1_ps(P[0]);
    for c in &P[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
    }
    let p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
    _mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0)), n)
}
