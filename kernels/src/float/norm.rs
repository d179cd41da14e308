//! Normalizations of one row.

use super::{fma, fold};

/// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, arXiv 1910.07467); rows of `weight`,
/// `x` and `out` have one length.
pub fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    assert!(out.len() == x.len(), "rows of one length");
    let mean_square = fold(x, |sum, x| fma(x, x, sum)) / x.len() as f32;
    let factor = 1.0 / (mean_square + eps).sqrt();
    for (y, x) in out.iter_mut().zip(x) {
        *y = x * factor;
    }
    multiply(out, weight);
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` (Ba et al., arXiv 1607.06450), the variance
/// by a second pass.
pub fn layer_norm(
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    assert!(out.len() == x.len(), "rows of one length");
    let n = x.len() as f32;
    let mean = fold(x, |sum, x| sum + x) / n;
    let variance = fold(x, |sum, x| fma(x - mean, x - mean, sum)) / n;
    let factor = 1.0 / (variance + eps).sqrt();
    for (y, x) in out.iter_mut().zip(x) {
        *y = (x - mean) * factor;
    }
    multiply(out, weight);
    if let Some(bias) = bias {
        super::add(out, bias);
    }
}

fn multiply(y: &mut [f32], weight: Option<&[f32]>) {
    let Some(weight) = weight else { return };
    assert!(y.len() == weight.len(), "rows of one length");
    for (y, w) in y.iter_mut().zip(weight) {
        *y *= w;
    }
}
