//! The parts of a softmax.

use super::{LANES, Lanes, exp, fma};

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

/// Distance from the maximum below which [`exp_moments`] counts nothing: exponentials above are normal numbers,
/// which one factor of `2^n` makes, those below are some 1e-38, and CPUs take a hundred times as long to make
/// them.
pub(crate) const LIGHT: f32 = -87.0;

/// Sums of `e` and of `e d`, where `d = x - max` and `e = exp(d)`, in the room's order: the total of a
/// softmax and, from the other, its entropy. Nothing is added where `d` is below -87, as for `-inf`; an element
/// above `max` counts as `max`.
pub fn exp_moments(x: &[f32], max: f32) -> [f32; 2] {
    let (groups, tail) = x.as_chunks::<LANES>();
    let mut moments = ExpMoments::default();
    groups.iter().for_each(|group| moments.add(group, max));
    moments.finish(tail, max)
}

/// The accumulators of [`exp_moments`].
#[derive(Default)]
pub(crate) struct ExpMoments {
    /// Sums of the exponentials.
    pub sums: [f32; LANES],
    /// Sums of their products with the distances.
    pub products: [f32; LANES],
}

impl ExpMoments {
    /// Adds up to eight elements.
    pub fn add(&mut self, x: &[f32], max: f32) {
        for ((sum, product), &x) in self.sums.iter_mut().zip(&mut self.products).zip(x) {
            let d = x - max;
            // NaN is neither more nor less.
            let d = if d > 0.0 { 0.0 } else { d };
            let is_light = d < LIGHT;
            if !is_light {
                let e = exp::exp(d);
                *sum += e;
                *product = fma(e, d, *product);
            }
        }
    }

    /// The sums with those of the tail.
    pub fn finish(mut self, tail: &[f32], max: f32) -> [f32; 2] {
        self.add(tail, max);
        [Lanes(self.sums).sum(), Lanes(self.products).sum()]
    }
}

/// `x = exp(x) / sum(exp(x))`. A row of nothing but `-inf` has no softmax and becomes NaN.
pub fn softmax(x: &mut [f32]) {
    let sum = exp_sum(x, max(x));
    super::scale(x, 1.0 / sum);
}
