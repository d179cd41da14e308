//! The exponential, written down once for all levels: constants and order of operations.
//!
//! `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a polynomial of degree 7 in `r` (coefficients of
//! Cephes' `expf`), then `2^n` in two factors so that subnormal results round once. Within 2 ulp.

use super::fma;
use crate::block::nearest;
use std::f32::consts::LOG2_E;

/// Bound above which results are infinite for sure; the powers of two are normal numbers up to here.
pub(crate) const X_MAX: f32 = 90.0;
/// Bound below which results are 0 for sure.
pub(crate) const X_MIN: f32 = -106.0;
/// `ln 2` in two parts, of which `n` times the first is exact.
pub(crate) const LN_2_HIGH: f32 = 0.693_359_4;
/// The rest of [`LN_2_HIGH`].
pub(crate) const LN_2_LOW: f32 = -2.121_944_4e-4;
/// `(exp(r) - 1 - r) / r^2`, the highest power first.
pub(crate) const P: [f32; 6] =
    [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

/// `exp(x)` over the whole range: 0 below -104, infinity above 88.73, NaN for NaN.
pub(crate) fn exp(x: f32) -> f32 {
    // Not `clamp`: NaN passes both.
    let x = if x > X_MAX { X_MAX } else { x };
    let x = if x < X_MIN { X_MIN } else { x };
    let n = nearest(x * LOG2_E);
    let r = fma(-n, LN_2_HIGH, x);
    let r = fma(-n, LN_2_LOW, r);
    let p = P[1..].iter().fold(P[0], |p, &c| fma(p, r, c));
    let p = fma(r * r, p, r) + 1.0;
    let n = n as i32;
    let half = n >> 1;
    p * power_of_2(half) * power_of_2(n - half)
}

/// `2^n` for `-126 <= n <= 127`.
fn power_of_2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}
