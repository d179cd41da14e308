//! Float operations on slices: the scalar twins of every ISA's.
//!
//! **Order of sums.** A sum over `k` elements has [`LANES`] accumulators. Whole groups of eight go
//! in order, element `8g + i` into lane `i`; the tail's element `i` into lane `i`; then
//! `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`, the tree of a 256-bit register folded in half three
//! times. An ISA keeps that order and may contract `acc + a * b` to one rounding; here it is two,
//! since machines without the instruction pay a library call for it. So levels agree to f32
//! rounding, and within a level a result depends on its own row only, never on how many rows,
//! queries or keys are computed together.
//!
//! **Values.** NaN and infinity go through as IEEE has it, nothing panics for them. Lengths that do
//! not fit panic: they are the caller's invariants. Nothing allocates.

mod activation;
mod attention;
mod convert;
mod linear;
mod norm;
mod rope;
mod softmax;

pub use activation::{Activation, act, erf, glu};
pub use attention::{scores_f16, scores_f32, weighted_sum_f16, weighted_sum_f32};
pub use convert::{f16_to_f32, f32_to_f16, half_to_f32};
pub use linear::{add, add_scaled, dot, scale};
pub use norm::{layer_norm, rms_norm};
pub use rope::{RopePairing, rope};
pub use softmax::{exp_sum, max, softmax};

/// Accumulators of a sum.
pub const LANES: usize = 8;

/// The accumulators of one sum.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// One group of eight products.
    pub fn add_products(&mut self, a: &[f32; LANES], b: &[f32; LANES]) {
        for ((lane, a), b) in self.0.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }

    /// The fixed tree.
    pub fn sum(self) -> f32 {
        let l = self.0;
        ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
    }
}

/// The sum of `f` over `x` in the fixed order.
pub(crate) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (groups, tail) = x.as_chunks::<LANES>();
    let mut lanes = Lanes::default();
    for group in groups {
        for (lane, &x) in lanes.0.iter_mut().zip(group) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.0.iter_mut().zip(tail) {
        *lane += f(x);
    }
    lanes.sum()
}
