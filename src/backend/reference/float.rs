//! Functions of vectors, in f64 inside.

use crate::backend::program::{Norm, NormKind};
use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};
use teff_kernels::Activation;

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

pub(super) fn length(x: &[f32]) -> f64 {
    dot(x, x).sqrt()
}

/// Mean and population variance.
pub(super) fn mean_and_variance(x: &[f32]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (mean, x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n)
}

pub(super) fn normalize(norm: &Norm, x: &[f32]) -> Vec<f32> {
    normalize_by(norm, norm.weight.as_deref(), norm.bias.as_deref(), x)
}

/// A norm with parameters from elsewhere.
pub(super) fn normalize_by(
    norm: &Norm,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    x: &[f32],
) -> Vec<f32> {
    let (center, squares) = match norm.kind {
        NormKind::Rms => (0.0, dot(x, x) / x.len() as f64),
        NormKind::Layer => mean_and_variance(x),
    };
    let factor = 1.0 / (squares + f64::from(norm.eps)).sqrt();
    let element = |(i, &x): (usize, &f32)| {
        let weight = weight.map_or(1.0, |weight| f64::from(weight[i]));
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        ((f64::from(x) - center) * factor * weight + bias) as f32
    };
    x.iter().enumerate().map(element).collect()
}

pub(super) fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = x.iter().map(|&x| f64::from(x - max).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    x.iter_mut().zip(exponentials).for_each(|(x, e)| *x = (e / sum) as f32);
}

pub(super) fn activate_all(f: Activation, x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = activate(f, *x));
}

pub(super) fn activate(f: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let y = match f {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => {
            x / 2.0 * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::GeluErf => x / 2.0 * (1.0 + erf(x / SQRT_2)),
        Activation::GeluQuick => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::ReluSqr => x.max(0.0).powi(2),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
        Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
    };
    y as f32
}

/// The error function by its series without cancellation (Abramowitz and Stegun 7.1.6):
/// `2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n + 1) / (1 * 3 * ... * (2n + 1))`.
fn erf(x: f64) -> f64 {
    // Beyond, the rest is below the precision of f64.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_that_of_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}");
        }
        assert!((erf(5.99) - 1.0).abs() < 1e-12);
    }
}
