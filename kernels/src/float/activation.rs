//! Activations, element by element.

use super::exp::exp;
use super::fma;

/// The functions feed-forward networks use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU in its tanh form: `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    Gelu,
    /// GELU itself (arXiv 1606.08415): `x / 2 * (1 + erf(x / sqrt(2)))`.
    GeluErf,
    /// `x * sigmoid(1.702 x)`.
    GeluQuick,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2` (arXiv 2109.08668).
    ReluSqr,
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `ln(1 + exp(x))`.
    Softplus,
}

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 9] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluErf,
        Activation::GeluQuick,
        Activation::Relu,
        Activation::ReluSqr,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Softplus,
    ];
}

/// `x = f(x)`.
pub fn act(f: Activation, x: &mut [f32]) {
    match f {
        Activation::Silu => map(x, silu),
        Activation::Gelu => map(x, gelu),
        Activation::GeluErf => map(x, gelu_erf),
        Activation::GeluQuick => map(x, gelu_quick),
        Activation::Relu => map(x, relu),
        Activation::ReluSqr => map(x, relu_sqr),
        Activation::Tanh => map(x, f32::tanh),
        Activation::Sigmoid => map(x, sigmoid),
        Activation::Softplus => map(x, softplus),
    }
}

/// Beyond, the exponential leaves nothing of the 1.
const SOFTPLUS_MAX: f32 = 20.0;

fn softplus(x: f32) -> f32 {
    if x > SOFTPLUS_MAX { x } else { x.exp().ln_1p() }
}

/// The gated linear unit (arXiv 2002.05202): `out = f(gate) * up`.
pub fn glu(f: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "slices of one length");
    out.copy_from_slice(gate);
    act(f, out);
    for (y, up) in out.iter_mut().zip(up) {
        *y *= up;
    }
}

/// The error function within 2 ulp: N. Juffa's minimax polynomials (2018, answering
/// <https://stackoverflow.com/q/35148198>), `x + x P(x^2)` near 0 and `1 - exp(Q(|x|))` beyond,
/// which is exactly 1 from 4 on.
pub fn erf(x: f32) -> f32 {
    // From the first coefficient, not 0: infinity must not meet it.
    let horner = |c: &[f32], x: f32| c[1..].iter().fold(c[0], |sum, c| fma(sum, x, *c));
    let magnitude = x.abs();
    if magnitude > ERF_NEAR {
        let exponent = fma(horner(&ERF_FAR_Q, magnitude), magnitude, -magnitude);
        (1.0 - exp(exponent)).copysign(x)
    } else {
        fma(horner(&ERF_NEAR_P, x * x), x, x)
    }
}

/// End of the range in which [`erf`] is `x + x P(x^2)`.
pub(crate) const ERF_NEAR: f32 = 475.0 / 512.0;
/// Coefficients of `P`, the highest power first.
pub(crate) const ERF_NEAR_P: [f32; 6] = [
    -5.967_617e-4,
    4.991_194_2e-3,
    -2.676_813_5e-2,
    1.128_199_25e-1,
    -3.761_253_4e-1,
    1.283_791_7e-1,
];
/// Coefficients of `(Q(x) + x) / x`, the highest power first.
pub(crate) const ERF_FAR_Q: [f32; 7] = [
    -1.728_534_7e-5,
    3.831_971_3e-4,
    -3.883_964_4e-3,
    2.425_462_2e-2,
    -1.067_778_8e-1,
    -6.348_467e-1,
    -1.287_175_1e-1,
];

/// `-2 sqrt(2 / pi)`: GELU's tanh form is `x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3)))`, as
/// `(1 + tanh(u)) / 2 = 1 / (1 + exp(-2u))`.
pub(crate) const GELU_LINEAR: f32 = -1.595_769_2;
/// [`GELU_LINEAR`] times the cubic term's 0.044715.
pub(crate) const GELU_CUBIC: f32 = 0.044_715 * GELU_LINEAR;
/// Minus the factor of [`Activation::GeluQuick`].
pub(crate) const QUICK: f32 = -1.702;

fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

/// `x / (1 + exp(t))`.
fn gate(x: f32, t: f32) -> f32 {
    x / (1.0 + exp(t))
}

fn sigmoid(x: f32) -> f32 {
    gate(1.0, -x)
}

fn silu(x: f32) -> f32 {
    gate(x, -x)
}

fn gelu(x: f32) -> f32 {
    gate(x, x * fma(x * x, GELU_CUBIC, GELU_LINEAR))
}

fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn gelu_quick(x: f32) -> f32 {
    gate(x, QUICK * x)
}

/// NaN stays NaN, unlike with `f32::max`.
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn relu_sqr(x: f32) -> f32 {
    relu(x) * relu(x)
}
