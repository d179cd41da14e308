//! Function pointers of the float operations: what a level has instead of the scalar functions.

use super::{self as float, Activation, Ahead, RopePairing};

/// The signature of [`FloatOps::add_product_f32`] with rows `b` of elements `B`.
pub type ProductFn<B> = fn(usize, (&[f32], usize), &[B], usize, (&mut [f32], usize), Ahead);

/// The float operations of a transformer. Lengths that do not fit panic; formulas and the order of
/// sums are those of [`crate::float`]'s functions of the same names.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::type_complexity, reason = "the signatures are the documentation")]
pub struct FloatOps {
    /// `(x, weight, eps, out)`.
    pub rms_norm: fn(&[f32], Option<&[f32]>, f32, &mut [f32]),
    /// `(x, weight, bias, eps, out)`.
    pub layer_norm: fn(&[f32], Option<&[f32]>, Option<&[f32]>, f32, &mut [f32]),
    /// `x = f(x)`.
    pub act: fn(Activation, &mut [f32]),
    /// `(f, gate, up, out)`: `out = f(gate) * up`.
    pub glu: fn(Activation, &[f32], &[f32], &mut [f32]),
    /// `(x, cos, sin, pairing)`: rotates the first `2 * cos.len()` dimensions of one head.
    pub rope: fn(&mut [f32], &[f32], &[f32], RopePairing),
    /// `(y, x)`: `y += x`.
    pub add: fn(&mut [f32], &[f32]),
    /// `(y, f)`: `y *= f`.
    pub scale: fn(&mut [f32], f32),
    /// `(y, x, f)`: `y += x * f`.
    pub add_scaled: fn(&mut [f32], &[f32], f32),
    /// `a . b`.
    pub dot: fn(&[f32], &[f32]) -> f32,
    /// `(n, (a, a_stride), b: [k][cols], cols, (c, c_stride), ahead)`: `c += a b`, `n` rows.
    pub add_product_f32: ProductFn<f32>,
    /// `add_product_f32` with `b` as the bits of halves.
    pub add_product_f16: ProductFn<u16>,
    /// `(codes, scales, lanes, out: [dim][lanes])`: keys of a page, a lane per token.
    pub widen_lanes_q8_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// `widen_lanes_q8_0` for codes of 4 bits.
    pub widen_lanes_q4_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// `(codes, scales, dim, out: [rows][dim])`: values of a page, a row per token.
    pub widen_rows_q8_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// `widen_rows_q8_0` for codes of 4 bits.
    pub widen_rows_q4_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// The normalized Hadamard transform, its own inverse.
    pub hadamard: fn(&mut [f32]),
    /// `(x, cap)`: `x = cap * tanh(x / cap)`.
    pub soft_cap: fn(&mut [f32], f32),
    /// Asks for `(address, bytes)` in the second-level cache; any address will do.
    pub(crate) prefetch: fn(*const u8, usize),
    /// `(x, max)`: `x = exp(x - max)`, returns the sum.
    pub exp_sum: fn(&mut [f32], f32) -> f32,
    /// `(x, max)`: sums of `exp(x - max)` and of `exp(x - max) (x - max)`.
    pub exp_moments: fn(&[f32], f32) -> [f32; 2],
    /// The largest element; `-inf` of none.
    pub max: fn(&[f32]) -> f32,
    /// `x = exp(x) / sum(exp(x))`.
    pub softmax: fn(&mut [f32]),
    /// Halves to singles.
    pub f16_to_f32: fn(&[u16], &mut [f32]),
    /// Singles to halves.
    pub f32_to_f16: fn(&[f32], &mut [u16]),
}

impl FloatOps {
    /// The scalar functions, which specify all others.
    pub(crate) const SCALAR: FloatOps = FloatOps {
        rms_norm: float::rms_norm,
        layer_norm: float::layer_norm,
        act: float::act,
        glu: float::glu,
        rope: float::rope,
        add: float::add,
        scale: float::scale,
        add_scaled: float::add_scaled,
        dot: float::dot,
        add_product_f32: |n, a, b, cols, c, _| float::add_product_f32(n, a, b, cols, c),
        add_product_f16: |n, a, b, cols, c, _| float::add_product_f16(n, a, b, cols, c),
        widen_lanes_q8_0: float::widen_lanes_q8_0,
        widen_lanes_q4_0: float::widen_lanes_q4_0,
        widen_rows_q8_0: float::widen_rows_q8_0,
        widen_rows_q4_0: float::widen_rows_q4_0,
        hadamard: float::hadamard,
        soft_cap: float::soft_cap,
        prefetch: |_, _| (),
        exp_sum: float::exp_sum,
        exp_moments: float::exp_moments,
        max: float::max,
        softmax: float::softmax,
        f16_to_f32: float::f16_to_f32,
        f32_to_f16: float::f32_to_f16,
    };

    /// Asks for memory that is read soon. Worth it for a few KiB some hundred nanoseconds ahead,
    /// where the CPU does not see it coming.
    pub fn prefetch<T>(&self, x: &[T]) {
        self.prefetch_ahead(Ahead::of(x));
    }

    /// [`FloatOps::prefetch`] of lines given by address.
    pub fn prefetch_ahead(&self, ahead: Ahead) {
        (self.prefetch)(ahead.address, ahead.lines * Ahead::LINE_BYTES);
    }
}
