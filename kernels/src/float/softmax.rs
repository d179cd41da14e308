//! The parts of a softmax.

use super::LANES;

/// The largest element; NaN is passed over, nothing gives `-inf`.
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (groups, tail) = x.as_chunks::<LANES>();
    let keep_larger = |lane: &mut f32, x: f32| {
        if x > *lane {
            *lane = x;
        }
    };
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            keep_larger(lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        keep_larger(lane, x);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `x = exp(x - max)`; returns the sum of the results, in the room's order.
pub fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    for x in x.iter_mut() {
        *x = (*x - max).exp();
    }
    super::sum_of(x, |x| x)
}

/// `x = exp(x) / sum(exp(x))`. A row of nothing but `-inf` has no softmax and becomes NaN.
pub fn softmax(x: &mut [f32]) {
    let sum = exp_sum(x, max(x));
    super::scale(x, 1.0 / sum);
}
