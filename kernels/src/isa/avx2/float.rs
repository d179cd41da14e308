//! The float operations of [`crate::float`], eight lanes at a time: its bits, by the same operations
//! in the same order.
//!
//! Tails go through the same instructions as whole groups, so an element's bits do not depend on
//! where a slice was cut.

use super::exp::{exp, exp_normal};
use super::mem::{halves, load_ps, load_some, singles, store_16, store_ps, store_some};
pub(super) use super::quantized::{
    hadamard, widen_lanes_q4_0, widen_lanes_q8_0, widen_rows_q4_0, widen_rows_q8_0,
};
use super::sum::sum_ps;
use super::{attention, dense};
use crate::float::activation::{ERF_FAR_Q, ERF_NEAR, ERF_NEAR_P, GELU_CUBIC, GELU_LINEAR, QUICK};
use crate::float::softmax::{ExpMoments, LIGHT, larger};
use crate::float::{self, Activation, Ahead, RopePairing};
use std::arch::x86_64::*;

/// `y = f(y)`, eight at a time.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn map(y: &mut [f32], f: impl Fn(__m256) -> __m256) {
    let (groups, tail) = y.as_chunks_mut::<8>();
    for y in groups {
        store_ps(y, f(load_ps(y)));
    }
    store_some(tail, f(load_some(tail)));
}

/// `y = f(y, x)`, eight at a time.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn zip(y: &mut [f32], x: &[f32], f: impl Fn(__m256, __m256) -> __m256) {
    assert!(y.len() == x.len(), "vectors of one length");
    let ((groups, tail), (x, x_tail)) = (y.as_chunks_mut::<8>(), x.as_chunks::<8>());
    for (y, x) in groups.iter_mut().zip(x) {
        store_ps(y, f(load_ps(y), load_ps(x)));
    }
    store_some(tail, f(load_some(tail), load_some(x_tail)));
}

/// `sum = f(sum, x)`, eight sums at a time, then the tree; lanes behind the end keep their sums.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fold(x: &[f32], f: impl Fn(__m256, __m256) -> __m256) -> f32 {
    let (groups, tail) = x.as_chunks::<8>();
    let mut sum = _mm256_setzero_ps();
    for x in groups {
        sum = f(sum, load_ps(x));
    }
    if !tail.is_empty() {
        sum = update_some(sum, tail, f);
    }
    sum_ps(sum)
}

/// `f(sum, x)` in the lanes that a tail fills, `sum` in the others.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn update_some(sum: __m256, tail: &[f32], f: impl Fn(__m256, __m256) -> __m256) -> __m256 {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(tail.len() as i32), lanes);
    _mm256_blendv_ps(sum, f(sum, load_some(tail)), _mm256_castsi256_ps(inside))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let mean_square = fold(x, |sum, x| _mm256_fmadd_ps(x, x, sum)) / x.len() as f32;
    let factor = _mm256_set1_ps(1.0 / (mean_square + eps).sqrt());
    zip(out, x, |_, x| _mm256_mul_ps(x, factor));
    if let Some(weight) = weight {
        zip(out, weight, |y, w| _mm256_mul_ps(y, w));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn layer_norm(
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let n = x.len() as f32;
    let mean = _mm256_set1_ps(fold(x, |sum, x| _mm256_add_ps(sum, x)) / n);
    let variance = fold(x, |sum, x| {
        let x = _mm256_sub_ps(x, mean);
        _mm256_fmadd_ps(x, x, sum)
    }) / n;
    let factor = _mm256_set1_ps(1.0 / (variance + eps).sqrt());
    zip(out, x, |_, x| _mm256_mul_ps(_mm256_sub_ps(x, mean), factor));
    if let Some(weight) = weight {
        zip(out, weight, |y, w| _mm256_mul_ps(y, w));
    }
    if let Some(bias) = bias {
        add(out, bias);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn act(f: Activation, x: &mut [f32]) {
    let one = _mm256_set1_ps(1.0);
    // x / (1 + exp(-t))
    let gate = |x, t| _mm256_div_ps(x, _mm256_add_ps(one, exp(t)));
    match f {
        Activation::Silu => map(x, |x| gate(x, negate(x))),
        Activation::Sigmoid => map(x, |x| gate(one, negate(x))),
        Activation::GeluQuick => map(x, |x| gate(x, _mm256_mul_ps(x, _mm256_set1_ps(QUICK)))),
        Activation::Gelu => map(x, |x| {
            let (linear, cubic) = (_mm256_set1_ps(GELU_LINEAR), _mm256_set1_ps(GELU_CUBIC));
            let factor = _mm256_fmadd_ps(_mm256_mul_ps(x, x), cubic, linear);
            gate(x, _mm256_mul_ps(x, factor))
        }),
        // The second operand is returned for NaN.
        Activation::Relu => map(x, |x| _mm256_max_ps(_mm256_setzero_ps(), x)),
        Activation::ReluSqr => map(x, |x| {
            let x = _mm256_max_ps(_mm256_setzero_ps(), x);
            _mm256_mul_ps(x, x)
        }),
        Activation::GeluErf => map(x, |x| {
            let scaled = _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::FRAC_1_SQRT_2));
            let factor = _mm256_add_ps(one, erf(scaled));
            _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.5), x), factor)
        }),
        Activation::Tanh | Activation::Softplus => float::act(f, x),
    }
}

/// [`float::erf`]: both of its branches, then a choice.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn erf(x: __m256) -> __m256 {
    let sign = _mm256_set1_ps(-0.0);
    let magnitude = _mm256_andnot_ps(sign, x);
    let q = horner(&ERF_FAR_Q, magnitude);
    let far = exp(_mm256_fmsub_ps(q, magnitude, magnitude));
    let far = _mm256_or_ps(_mm256_sub_ps(_mm256_set1_ps(1.0), far), _mm256_and_ps(sign, x));
    let near = _mm256_fmadd_ps(horner(&ERF_NEAR_P, _mm256_mul_ps(x, x)), x, x);
    let is_far = _mm256_cmp_ps::<_CMP_GT_OQ>(magnitude, _mm256_set1_ps(ERF_NEAR));
    _mm256_blendv_ps(near, far, is_far)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn horner(coefficients: &[f32], x: __m256) -> __m256 {
    let mut sum = _mm256_set1_ps(coefficients[0]);
    for c in &coefficients[1..] {
        sum = _mm256_fmadd_ps(sum, x, _mm256_set1_ps(*c));
    }
    sum
}

#[inline]
#[target_feature(enable = "avx")]
fn negate(x: __m256) -> __m256 {
    _mm256_xor_ps(x, _mm256_set1_ps(-0.0))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn glu(f: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len(), "slices of one length");
    out.copy_from_slice(gate);
    act(f, out);
    zip(out, up, |y, up| _mm256_mul_ps(y, up));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], pairing: RopePairing) {
    let pairs = cos.len();
    assert!(sin.len() == pairs && 2 * pairs <= x.len(), "pairs fit the head");
    let x = &mut x[..2 * pairs];
    match pairing {
        RopePairing::Neox => {
            let (first, second) = x.split_at_mut(pairs);
            let (a, a_tail) = first.as_chunks_mut::<8>();
            let (b, b_tail) = second.as_chunks_mut::<8>();
            let ((cos, cos_tail), (sin, sin_tail)) = (cos.as_chunks::<8>(), sin.as_chunks::<8>());
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let (x, y) = turn(load_ps(a), load_ps(b), load_ps(cos), load_ps(sin));
                store_ps(a, x);
                store_ps(b, y);
            }
            let (cos, sin) = (load_some(cos_tail), load_some(sin_tail));
            let (x, y) = turn(load_some(a_tail), load_some(b_tail), cos, sin);
            store_some(a_tail, x);
            store_some(b_tail, y);
        }
        RopePairing::Norm => {
            let twice = |x: &[f32]| {
                let order = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
                _mm256_permutevar8x32_ps(load_some(x), order)
            };
            for ((x, cos), sin) in x.chunks_mut(8).zip(cos.chunks(4)).zip(sin.chunks(4)) {
                let pair = load_some(x);
                let swapped = _mm256_permute_ps::<0b10_11_00_01>(pair);
                let crossed = _mm256_mul_ps(swapped, twice(sin));
                store_some(x, _mm256_fmaddsub_ps(pair, twice(cos), crossed));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn turn(a: __m256, b: __m256, cos: __m256, sin: __m256) -> (__m256, __m256) {
    let x = _mm256_fmsub_ps(a, cos, _mm256_mul_ps(b, sin));
    (x, _mm256_fmadd_ps(b, cos, _mm256_mul_ps(a, sin)))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add(y: &mut [f32], x: &[f32]) {
    zip(y, x, |y, x| _mm256_add_ps(y, x));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scale(y: &mut [f32], f: f32) {
    let f = _mm256_set1_ps(f);
    map(y, |y| _mm256_mul_ps(y, f));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_scaled(y: &mut [f32], x: &[f32], f: f32) {
    let f = _mm256_set1_ps(f);
    zip(y, x, |y, x| _mm256_fmadd_ps(x, f, y));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert!(a.len() == b.len(), "vectors of one length");
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sum = _mm256_setzero_ps();
    for (a, b) in a.iter().zip(b) {
        sum = _mm256_fmadd_ps(load_ps(a), load_ps(b), sum);
    }
    if !a_tail.is_empty() {
        sum = _mm256_fmadd_ps(load_some(a_tail), load_some(b_tail), sum);
    }
    sum_ps(sum)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_product_f32(
    n: usize,
    a: (&[f32], usize),
    b: &[f32],
    cols: usize,
    c: (&mut [f32], usize),
    ahead: Ahead,
) {
    attention::add_product(n, a, singles(b), cols, (c, ahead), |b| dense::widen_f32(b));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_product_f16(
    n: usize,
    a: (&[f32], usize),
    b: &[u16],
    cols: usize,
    c: (&mut [f32], usize),
    ahead: Ahead,
) {
    attention::add_product(n, a, halves(b), cols, (c, ahead), |b| dense::widen_f16(b));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn soft_cap(x: &mut [f32], cap: f32) {
    let (cap, one, two) = (_mm256_set1_ps(cap), _mm256_set1_ps(1.0), _mm256_set1_ps(2.0));
    map(x, |x| {
        let e = exp(_mm256_mul_ps(two, _mm256_div_ps(x, cap)));
        let tanh = _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(e, one)));
        _mm256_mul_ps(cap, tanh)
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch(address: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T1>(address.wrapping_add(line).cast());
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let max = _mm256_set1_ps(max);
    let (groups, tail) = x.as_chunks_mut::<8>();
    let mut sum = _mm256_setzero_ps();
    for x in groups {
        let e = exp(_mm256_sub_ps(load_ps(x), max));
        store_ps(x, e);
        sum = _mm256_add_ps(sum, e);
    }
    if !tail.is_empty() {
        store_some(tail, exp(_mm256_sub_ps(load_some(tail), max)));
        sum = update_some(sum, tail, |sum, x| _mm256_add_ps(sum, x));
    }
    sum_ps(sum)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exp_moments(x: &[f32], max: f32) -> [f32; 2] {
    let (groups, tail) = x.as_chunks::<8>();
    let (all_max, light) = (_mm256_set1_ps(max), _mm256_set1_ps(LIGHT));
    let (mut sums, mut products) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for x in groups {
        // NaN is not less, and the second operand of a minimum and a maximum.
        let d = _mm256_min_ps(_mm256_setzero_ps(), _mm256_sub_ps(load_ps(x), all_max));
        let counts = _mm256_cmp_ps::<_CMP_NLT_UQ>(d, light);
        let d = _mm256_max_ps(light, d);
        let e = _mm256_and_ps(counts, exp_normal(d));
        sums = _mm256_add_ps(sums, e);
        products = _mm256_fmadd_ps(e, d, products);
    }
    let mut moments = ExpMoments::default();
    store_ps(&mut moments.sums, sums);
    store_ps(&mut moments.products, products);
    moments.finish(tail, max)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn max(x: &[f32]) -> f32 {
    let (groups, tail) = x.as_chunks::<8>();
    let mut lanes = _mm256_set1_ps(f32::NEG_INFINITY);
    for x in groups {
        // The second operand is returned for NaN.
        lanes = _mm256_max_ps(load_ps(x), lanes);
    }
    let mut array = [0.0; 8];
    store_ps(&mut array, lanes);
    array.iter().chain(tail).copied().fold(f32::NEG_INFINITY, larger)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn softmax(x: &mut [f32]) {
    let max = max(x);
    let sum = exp_sum(x, max);
    scale(x, 1.0 / sum);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16_to_f32(x: &[u16], out: &mut [f32]) {
    assert!(x.len() == out.len(), "slices of one length");
    let ((groups, tail), (out, out_tail)) = (halves(x).as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (y, x) in out.iter_mut().zip(groups) {
        store_ps(y, dense::widen_f16(x));
    }
    for (y, x) in out_tail.iter_mut().zip(tail) {
        *y = x.to_f32();
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32_to_f16(x: &[f32], out: &mut [u16]) {
    assert!(x.len() == out.len(), "slices of one length");
    let ((groups, tail), (out, out_tail)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    let narrow = |x| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
    for (y, x) in out.iter_mut().zip(groups) {
        store_16(y, narrow(load_ps(x)));
    }
    let mut last = [0; 8];
    store_16(&mut last, narrow(load_some(tail)));
    out_tail.copy_from_slice(&last[..tail.len()]);
}
