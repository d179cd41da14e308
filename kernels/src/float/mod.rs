//! Float operations on slices: the scalar twins of every ISA's.
//!
//! **Every ISA returns these bits** (of NaN, that it is one). A different rounding anywhere would
//! now and then move a quantized activation to the next code, which shows in a model's logits.
//!
//! **Order of sums.** A sum over `k` elements has [`LANES`] accumulators. Whole groups of eight go
//! in order, element `8g + i` into lane `i`; the tail's element `i` into lane `i`; then
//! `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`, the tree of a 256-bit register folded in half three
//! times. A dot's tail is a group filled up with zeros; other sums leave the lanes behind a tail
//! alone. The two differ where a lane is -0. A result depends on its own row only, never on how
//! many rows, queries or keys are computed together.
//!
//! **Roundings.** What is written [`fma()`] is rounded once, all else after every operation, and
//! there is nothing but what IEEE rounds correctly and what is made of it (`exp.rs`). `tanh` alone
//! is the C library's, at every level.
//!
//! **Values.** NaN and infinity go through as IEEE has it, nothing panics for them. Lengths that do
//! not fit panic: they are the caller's invariants. Nothing allocates.

pub(crate) mod activation;
pub(crate) mod attention;
mod block_max;
mod convert;
pub(crate) mod exp;
pub(crate) mod fma;
mod linear;
mod norm;
mod ops;
pub(crate) mod quantized;
mod rope;
pub(crate) mod softmax;

pub use activation::{Activation, act, erf, glu};
pub use attention::{Ahead, add_product_f16, add_product_f32, soft_cap};
pub use block_max::{BlockMax, MAX_BLOCK, block_max};
pub use convert::{f16_to_f32, f32_to_f16, half_of_f32, half_to_f32};
pub use fma::fma;
pub use linear::{add, add_scaled, dot, scale};
pub use norm::{layer_norm, rms_norm};
pub use ops::{FloatOps, ProductFn};
pub use quantized::{
    hadamard, widen_lanes_q4_0, widen_lanes_q8_0, widen_rows_q4_0, widen_rows_q8_0,
};
pub use rope::{RopePairing, rope};
pub use softmax::{exp_moments, exp_sum, max, softmax};

/// Accumulators of a sum.
pub const LANES: usize = 8;

/// The accumulators of one sum.
#[derive(Default)]
struct Lanes([f32; LANES]);

impl Lanes {
    /// `f(lane, x)` for up to eight lanes.
    fn update<X: Copy>(&mut self, x: &[X], f: impl Fn(f32, X) -> f32) {
        for (lane, &x) in self.0.iter_mut().zip(x) {
            *lane = f(*lane, x);
        }
    }

    /// The fixed tree.
    fn sum(self) -> f32 {
        let l = self.0;
        ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
    }
}

/// `sum = f(sum, x)` over `x` in the fixed order.
fn fold(x: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (groups, tail) = x.as_chunks::<LANES>();
    let mut lanes = Lanes::default();
    for group in groups {
        lanes.update(group, &f);
    }
    lanes.update(tail, &f);
    lanes.sum()
}

/// `a . b` in the fixed order, where `a` is widened to f32 exactly.
pub(crate) fn dot_of<A: Copy>(a: &[A], b: &[f32], widen: impl Fn(A) -> f32) -> f32 {
    let (a_groups, a_tail) = a.as_chunks::<LANES>();
    let (b_groups, b_tail) = b.as_chunks::<LANES>();
    let mut lanes = Lanes::default();
    let mut add = |a: &[f32; LANES], b: &[f32; LANES]| {
        for ((lane, a), &b) in lanes.0.iter_mut().zip(a).zip(b) {
            *lane = fma(*a, b, *lane);
        }
    };
    for (a, b) in a_groups.iter().zip(b_groups) {
        add(&a.map(&widen), b);
    }
    if !a_tail.is_empty() {
        let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
        for (to, &a) in a.iter_mut().zip(a_tail) {
            *to = widen(a);
        }
        b[..b_tail.len()].copy_from_slice(b_tail);
        add(&a, &b);
    }
    lanes.sum()
}
