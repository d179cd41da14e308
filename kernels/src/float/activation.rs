//! Activations, element by element.

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
    }
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
    const NEAR: f32 = 475.0 / 512.0;
    const P: [f32; 6] = [
        -5.967_617e-4,
        4.991_194_2e-3,
        -2.676_813_5e-2,
        1.128_199_25e-1,
        -3.761_253_4e-1,
        1.283_791_7e-1,
    ];
    const Q: [f32; 7] = [
        -1.728_534_7e-5,
        3.831_971_3e-4,
        -3.883_964_4e-3,
        2.425_462_2e-2,
        -1.067_778_8e-1,
        -6.348_467e-1,
        -1.287_175_1e-1,
    ];
    // From the first coefficient, not 0: infinity must not meet it.
    let horner = |c: &[f32], x: f32| c[1..].iter().fold(c[0], |sum, c| sum * x + c);
    let magnitude = x.abs();
    if magnitude > NEAR {
        let exponent = horner(&Q, magnitude) * magnitude - magnitude;
        (1.0 - exponent.exp()).copysign(x)
    } else {
        horner(&P, x * x) * x + x
    }
}

fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * x * (1.0 + 0.044_715 * x * x)).tanh())
}

fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn gelu_quick(x: f32) -> f32 {
    x / (1.0 + (-1.702 * x).exp())
}

/// NaN stays NaN, unlike with `f32::max`.
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn relu_sqr(x: f32) -> f32 {
    relu(x) * relu(x)
}
