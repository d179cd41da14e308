//! The parts of a softmax.

use super::{LANES, exp};

/// The largest element; NaN is passed over, nothing gives `-inf`.
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (groups, tail) = x.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = larger(*lane, x);
        }
    }
    lanes.iter().chain(tail).copied().fold(f32::NEG_INFINITY, larger)
}

/// The first for NaN and among equals; of -0 and 0 `f32::max` returns either.
pub(crate) fn larger(best: f32, x: f32) -> f32 {
    if x > best { x } else { best }
}

/// `x = exp(x - max)`; returns the sum of the results, in the room's order.
pub fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp::exp(*x - max);
    }
    super::fold(x, |sum, x| sum + x)
}

/// `x = exp(x) / sum(exp(x))`. A row of nothing but `-inf` has no softmax and becomes NaN.
pub fn softmax(x: &mut [f32]) {
    let sum = exp_sum(x, max(x));
    super::scale(x, 1.0 / sum);
}
