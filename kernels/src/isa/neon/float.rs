//! The float operations of [`crate::float`], eight lanes at a time: its bits, by the same operations
//! in the same order.
//!
//! Tails go through the same instructions as whole groups, so an element's bits do not depend on
//! where a slice was cut.

pub(super) use super::attention::{add_product_f16, add_product_f32};
pub(super) use super::quantized::{
    hadamard, widen_lanes_q4_0, widen_lanes_q8_0, widen_rows_q4_0, widen_rows_q8_0,
};
use super::vector::*;
use crate::float::activation::{ERF_FAR_Q, ERF_NEAR, ERF_NEAR_P, GELU_CUBIC, GELU_LINEAR, QUICK};
use crate::float::exp::{LN_2_HIGH, LN_2_LOW, P, X_MAX, X_MIN};
use crate::float::softmax::{ExpMoments, LIGHT, larger};
use crate::float::{self, Activation, RopePairing};

/// `y = f(y)`, eight at a time.
#[inline(always)]
fn map(y: &mut [f32], f: impl Fn(F32x8) -> F32x8) {
    let (groups, tail) = y.as_chunks_mut::<8>();
    for y in groups {
        f(F32x8::load(y)).store(y);
    }
    f(F32x8::load_some(tail)).store_some(tail);
}

/// `y = f(y, x)`, eight at a time.
#[inline(always)]
fn zip(y: &mut [f32], x: &[f32], f: impl Fn(F32x8, F32x8) -> F32x8) {
    assert!(y.len() == x.len(), "vectors of one length");
    let ((groups, tail), (x, x_tail)) = (y.as_chunks_mut::<8>(), x.as_chunks::<8>());
    for (y, x) in groups.iter_mut().zip(x) {
        f(F32x8::load(y), F32x8::load(x)).store(y);
    }
    f(F32x8::load_some(tail), F32x8::load_some(x_tail)).store_some(tail);
}

/// `sum = f(sum, x)`, eight sums at a time, then the tree; lanes behind the end keep their sums.
#[inline(always)]
fn fold(x: &[f32], f: impl Fn(F32x8, F32x8) -> F32x8) -> f32 {
    let (groups, tail) = x.as_chunks::<8>();
    let mut sum = F32x8::splat(0.0);
    for x in groups {
        sum = f(sum, F32x8::load(x));
    }
    if !tail.is_empty() {
        sum = update_some(sum, tail, f);
    }
    sum.sum()
}

/// `f(sum, x)` in the lanes that a tail fills, `sum` in the others.
#[inline(always)]
fn update_some(sum: F32x8, tail: &[f32], f: impl Fn(F32x8, F32x8) -> F32x8) -> F32x8 {
    let (mut lanes, mut updated) = ([0.0; 8], [0.0; 8]);
    sum.store(&mut lanes);
    f(sum, F32x8::load_some(tail)).store(&mut updated);
    lanes[..tail.len()].copy_from_slice(&updated[..tail.len()]);
    F32x8::load(&lanes)
}

pub(super) fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let mean_square = fold(x, |sum, x| sum.plus_product(x, x)) / x.len() as f32;
    let factor = F32x8::splat(1.0 / (mean_square + eps).sqrt());
    zip(out, x, |_, x| x.times(factor));
    if let Some(weight) = weight {
        zip(out, weight, F32x8::times);
    }
}

pub(super) fn layer_norm(
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let n = x.len() as f32;
    let mean = F32x8::splat(fold(x, F32x8::plus) / n);
    let variance = fold(x, |sum, x| sum.plus_product(x.minus(mean), x.minus(mean))) / n;
    let factor = F32x8::splat(1.0 / (variance + eps).sqrt());
    zip(out, x, |_, x| x.minus(mean).times(factor));
    if let Some(weight) = weight {
        zip(out, weight, F32x8::times);
    }
    if let Some(bias) = bias {
        add(out, bias);
    }
}

/// `exp(x)`, within 2 ulp over the whole range.
#[inline(always)]
fn exp(x: F32x8) -> F32x8 {
    let (most, least) = (F32x8::splat(X_MAX), F32x8::splat(X_MIN));
    // NaN passes both.
    let x = F32x8::if_greater(x, most, most, x);
    let x = F32x8::if_greater(least, x, least, x);
    let n = nearest(x.times(F32x8::splat(std::f32::consts::LOG2_E)));
    let r = x.minus_product(n, F32x8::splat(LN_2_HIGH));
    let r = r.minus_product(n, F32x8::splat(LN_2_LOW));
    let mut p = F32x8::splat(P[0]);
    for c in &P[1..] {
        p = F32x8::splat(*c).plus_product(p, r);
    }
    let p = r.plus_product(r.times(r), p).plus(F32x8::splat(1.0));
    // 2^n by halves: it need not be a normal number.
    let power = |i: usize| {
        let n = vcvtq_s32_f32(n.0[i]);
        let half = vshrq_n_s32::<1>(n);
        [half, vsubq_s32(n, half)].map(|n| {
            let biased = vaddq_s32(n, vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    };
    let ([a, b], [c, d]) = (power(0), power(1));
    p.times(F32x8([a, c])).times(F32x8([b, d]))
}

/// To the nearest whole number, ties to even.
#[inline(always)]
fn nearest(x: F32x8) -> F32x8 {
    x.each(vrndnq_f32)
}

pub(super) fn act(f: Activation, x: &mut [f32]) {
    let (one, zero) = (F32x8::splat(1.0), F32x8::splat(0.0));
    // x / (1 + exp(t))
    let gate = |x: F32x8, t: F32x8| x.over(one.plus(exp(t)));
    // NaN stays NaN.
    let relu = |x: F32x8| F32x8::if_greater(zero, x, zero, x);
    match f {
        Activation::Silu => map(x, |x| gate(x, x.negative())),
        Activation::Sigmoid => map(x, |x| gate(one, x.negative())),
        Activation::GeluQuick => map(x, |x| gate(x, x.times(F32x8::splat(QUICK)))),
        Activation::Gelu => map(x, |x| {
            let linear = F32x8::splat(GELU_LINEAR);
            let factor = linear.plus_product(x.times(x), F32x8::splat(GELU_CUBIC));
            gate(x, x.times(factor))
        }),
        Activation::Relu => map(x, relu),
        Activation::ReluSqr => map(x, |x| relu(x).times(relu(x))),
        Activation::GeluErf => map(x, |x| {
            let scaled = x.times(F32x8::splat(std::f32::consts::FRAC_1_SQRT_2));
            F32x8::splat(0.5).times(x).times(one.plus(erf(scaled)))
        }),
        Activation::Tanh | Activation::Softplus => float::act(f, x),
    }
}

/// [`float::erf`]: both of its branches, then a choice.
#[inline(always)]
fn erf(x: F32x8) -> F32x8 {
    let magnitude = x.each(vabsq_f32);
    let q = horner(&ERF_FAR_Q, magnitude);
    let exponent = magnitude.negative().plus_product(q, magnitude);
    let far = F32x8::splat(1.0).minus(exp(exponent)).with_sign_of(x);
    let near = x.plus_product(horner(&ERF_NEAR_P, x.times(x)), x);
    F32x8::if_greater(magnitude, F32x8::splat(ERF_NEAR), far, near)
}

#[inline(always)]
fn horner(coefficients: &[f32], x: F32x8) -> F32x8 {
    let first = F32x8::splat(coefficients[0]);
    coefficients[1..].iter().fold(first, |sum, c| F32x8::splat(*c).plus_product(sum, x))
}

pub(super) fn glu(f: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len(), "slices of one length");
    out.copy_from_slice(gate);
    act(f, out);
    zip(out, up, F32x8::times);
}

pub(super) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], pairing: RopePairing) {
    let pairs = cos.len();
    assert!(sin.len() == pairs && 2 * pairs <= x.len(), "pairs fit the head");
    let x = &mut x[..2 * pairs];
    match pairing {
        RopePairing::Neox => {
            let (first, second) = x.split_at_mut(pairs);
            let angles = cos.chunks(8).zip(sin.chunks(8));
            for ((a, b), (cos, sin)) in first.chunks_mut(8).zip(second.chunks_mut(8)).zip(angles) {
                let (cos, sin) = (F32x8::load_some(cos), F32x8::load_some(sin));
                let (x, y) = (F32x8::load_some(a), F32x8::load_some(b));
                y.times(sin).negative().plus_product(x, cos).store_some(a);
                x.times(sin).plus_product(y, cos).store_some(b);
            }
        }
        RopePairing::Norm => {
            let (groups, tail) = x.as_chunks_mut::<8>();
            let ((cos, cos_tail), (sin, sin_tail)) = (cos.as_chunks(), sin.as_chunks());
            for ((x, cos), sin) in groups.iter_mut().zip(cos).zip(sin) {
                let F32x8([low, high]) = F32x8::load(x);
                let (a, b) = (vuzp1q_f32(low, high), vuzp2q_f32(low, high));
                let (cos, sin) = (load_f32(cos), load_f32(sin));
                let first = vfmaq_f32(vnegq_f32(vmulq_f32(b, sin)), a, cos);
                let second = vfmaq_f32(vmulq_f32(a, sin), b, cos);
                F32x8([vzip1q_f32(first, second), vzip2q_f32(first, second)]).store(x);
            }
            float::rope(tail, cos_tail, sin_tail, pairing);
        }
    }
}

pub(super) fn add(y: &mut [f32], x: &[f32]) {
    zip(y, x, F32x8::plus);
}

pub(super) fn scale(y: &mut [f32], f: f32) {
    let f = F32x8::splat(f);
    map(y, |y| y.times(f));
}

pub(super) fn add_scaled(y: &mut [f32], x: &[f32], f: f32) {
    let f = F32x8::splat(f);
    zip(y, x, |y, x| y.plus_product(x, f));
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert!(a.len() == b.len(), "vectors of one length");
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sum = F32x8::splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = sum.plus_product(F32x8::load(a), F32x8::load(b));
    }
    if !a_tail.is_empty() {
        sum = sum.plus_product(F32x8::load_some(a_tail), F32x8::load_some(b_tail));
    }
    sum.sum()
}

pub(super) fn soft_cap(x: &mut [f32], cap: f32) {
    let (cap, one, two) = (F32x8::splat(cap), F32x8::splat(1.0), F32x8::splat(2.0));
    map(x, |x| {
        let e = exp(two.times(x.over(cap)));
        cap.times(one.minus(two.over(e.plus(one))))
    });
}

pub(super) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let max = F32x8::splat(max);
    let (groups, tail) = x.as_chunks_mut::<8>();
    let mut sum = F32x8::splat(0.0);
    for x in groups {
        let e = exp(F32x8::load(x).minus(max));
        e.store(x);
        sum = sum.plus(e);
    }
    if !tail.is_empty() {
        exp(F32x8::load_some(tail).minus(max)).store_some(tail);
        sum = update_some(sum, tail, F32x8::plus);
    }
    sum.sum()
}

pub(super) fn exp_moments(x: &[f32], max: f32) -> [f32; 2] {
    let (groups, tail) = x.as_chunks::<8>();
    let (all_max, light, zero) = (F32x8::splat(max), F32x8::splat(LIGHT), F32x8::splat(0.0));
    let (mut sums, mut products) = (zero, zero);
    for x in groups {
        let x = F32x8::load(x).minus(all_max);
        // NaN is neither more nor less.
        let x = F32x8::if_greater(x, zero, zero, x);
        let d = F32x8::if_greater(light, x, light, x);
        let e = F32x8::if_greater(light, x, zero, exp(d));
        sums = sums.plus(e);
        products = products.plus_product(e, d);
    }
    let mut moments = ExpMoments::default();
    sums.store(&mut moments.sums);
    products.store(&mut moments.products);
    moments.finish(tail, max)
}

pub(super) fn max(x: &[f32]) -> f32 {
    let (groups, tail) = x.as_chunks::<8>();
    let mut lanes = F32x8::splat(f32::NEG_INFINITY);
    for x in groups {
        let x = F32x8::load(x);
        lanes = F32x8::if_greater(x, lanes, x, lanes);
    }
    let mut array = [0.0; 8];
    lanes.store(&mut array);
    array.iter().chain(tail).copied().fold(f32::NEG_INFINITY, larger)
}

pub(super) fn softmax(x: &mut [f32]) {
    let max = max(x);
    let sum = exp_sum(x, max);
    scale(x, 1.0 / sum);
}

pub(super) fn f16_to_f32(x: &[u16], out: &mut [f32]) {
    assert!(x.len() == out.len(), "slices of one length");
    let ((groups, tail), (out, out_tail)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (y, x) in out.iter_mut().zip(groups) {
        u16::widen(x).store(y);
    }
    float::f16_to_f32(tail, out_tail);
}

pub(super) fn f32_to_f16(x: &[f32], out: &mut [u16]) {
    assert!(x.len() == out.len(), "slices of one length");
    let ((groups, tail), (out, out_tail)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (y, x) in out.iter_mut().zip(groups) {
        F32x8::load(x).narrow(y);
    }
    let mut last = [0; 8];
    F32x8::load_some(tail).narrow(&mut last);
    out_tail.copy_from_slice(&last[..tail.len()]);
}
