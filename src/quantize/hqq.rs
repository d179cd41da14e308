//! Half-quadratic quantization (Badri and Shaji, 2023; mobiusml/hqq): zero points by which most weights
//! are right and few are far off, without any data.
//!
//! The error `W - (Q - z) s` of a group is split into a sparse part `E` (a norm of `|e|^p`, p < 1) and
//! the rest (squares), and both are minimized in turn: `E = shrink(W - (Q - z) s)`, then
//! `z = mean(Q - (W - E) / s)`. The scale `s` stays that of the range. Errors are in steps of the scale
//! here, so that the result does not depend on the size of weights. For types with a minimum: Q4_1,
//! Q5_1, Q2_K, Q4_K, Q5_K. Cost: some 20 passes.

use super::method::NoMethod;
use teff_kernels::{Group, Scales, TypeKernels};

/// Exponent of the norm of the sparse part.
const P: f32 = 0.7;

/// Weight of the squares at first, and its growth in each round.
const BETA: f32 = 10.0;
const BETA_GROWTH: f32 = 1.01;

/// Rounds at most; it ends when one does not lower the mean error.
const ROUNDS_MAX: usize = 20;

/// Writes the blocks of one row.
pub(super) fn quantize(
    kernels: &TypeKernels,
    x: &[f32],
    _importance: Option<&[f32]>,
    blocks: &mut [u8],
) -> Result<(), NoMethod> {
    let none = NoMethod(kernels.ty);
    let encoder = kernels.encoder().map_err(|_| none)?;
    let levels = || (0..encoder.codes).map(|code| encoder.level(code as u8));
    let most = levels().max().unwrap_or(0);
    // Types with a minimum are those that compose one, and whose codes begin at 0.
    let probe = vec![Group { scale: 1.0, min: 1.0 }; encoder.len / encoder.group];
    let has_min = encoder.group_of(&encoder.compose(&probe), 0).min != 0.0;
    if !has_min || levels().any(|level| level < 0) || usize::from(most as u8) + 1 != encoder.codes {
        return Err(none);
    }
    let scales: Vec<Scales> = x
        .chunks_exact(encoder.len)
        .map(|block| {
            let groups = block.chunks_exact(encoder.group).map(|x| fit(x, most.into()));
            encoder.compose(&groups.collect::<Vec<Group>>())
        })
        .collect();
    encoder.encode(x, &scales, blocks);
    Ok(())
}

/// Scale and minimum of a group with codes up to `most`.
fn fit(x: &[f32], most: f32) -> Group {
    let (low, high) = x.iter().fold((0.0, 0.0), |(a, b): (f32, f32), &x| (a.min(x), b.max(x)));
    let scale = (high - low) / most;
    let inverse = 1.0 / scale;
    if !inverse.is_finite() {
        return Group { scale: 0.0, min: -low };
    }
    let (mut zero, mut beta) = (-low * inverse, BETA);
    let (mut best, mut best_zero) = (f32::MAX, zero);
    for _ in 0..ROUNDS_MAX {
        let (mut error, mut next) = (0.0, 0.0);
        for x in x.iter().map(|x| x * inverse) {
            let code = (x + zero).round_ties_even().clamp(0.0, most);
            let off = x - (code - zero);
            error += off.abs();
            next += code - (x - shrink(off, beta));
        }
        if error >= best {
            break;
        }
        (best, best_zero) = (error, zero);
        zero = next / x.len() as f32;
        beta *= BETA_GROWTH;
    }
    Group { scale, min: best_zero * scale }
}

/// The sparse part of an error: the proximal step of `|e|^p`, generalized soft thresholding.
fn shrink(error: f32, beta: f32) -> f32 {
    let size = error.abs();
    if size == 0.0 {
        return 0.0;
    }
    (size - size.powf(P - 1.0) / beta).max(0.0).copysign(error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use crate::quantize::Method;
    use gguf_rs_lite::GgmlType;
    use teff_kernels::KernelTable;

    /// The mean error to the power 0.7 of a method.
    fn error(ty: GgmlType, method: &str, x: &[f32]) -> f64 {
        let kernels = KernelTable::detect().types(ty).unwrap();
        let mut blocks = vec![0; x.len() / ty.block_len() * ty.block_bytes()];
        let mut y = vec![0.0; x.len()];
        Method::from_name(method).unwrap().quantize(kernels, x, None, &mut blocks).unwrap();
        kernels.dequantize(&blocks, &mut y);
        let errors = x.iter().zip(&y).map(|(x, y)| f64::from(x - y).abs().powf(0.7));
        errors.sum::<f64>() / x.len() as f64
    }

    #[test]
    fn most_weights_are_nearer_than_by_rounding() {
        // Sums of waves: nearly normal, the same everywhere.
        let x: Vec<f32> = (0..4096)
            .map(|i| (0..6).map(|k| (i as f32 * (0.37 + 1.13 * k as f32)).sin()).sum::<f32>())
            .collect();
        for ty in [GgmlType::Q4_1, GgmlType::Q5_1, GgmlType::Q2_K, GgmlType::Q4_K, GgmlType::Q5_K] {
            let (hqq, rtn) = (error(ty, "hqq", &x), error(ty, "rtn", &x));
            assert!(hqq < rtn, "{ty}: {hqq} {rtn}");
        }
    }

    #[test]
    fn types_without_a_minimum_are_refused() {
        for ty in [GgmlType::Q4_0, GgmlType::Q6_K, GgmlType::Q8_0, GgmlType::IQ2_XS, GgmlType::F16]
        {
            let kernels = KernelTable::detect().types(ty).unwrap();
            assert!(!Method::from_name("hqq").unwrap().supports(kernels), "{ty}");
        }
    }
}
