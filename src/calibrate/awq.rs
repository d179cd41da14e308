//! Activation-aware factors (AWQ; arXiv:2306.00978): columns that see large inputs are multiplied before they
//! are quantized, so that their errors count less.
//!
//! The factor of a channel is `mean |x| ^ alpha`, divided by the root of the largest times the least. Of
//! twenty exponents from 0 (no factors) the one is taken with which the outputs of the readers lose least,
//! each quantized to its type by the method's first step; of large matrices some rows are tried.

use super::fold::{Fold, Reader, Scaling};
use super::known::Known;
use super::{CalibrateError, Calibration};
use crate::quantize::hessian::Inputs;
use crate::quantize::{Form, Planned, QuantizeError, Trial};
use crate::tensor::Weight;
use std::collections::HashSet;

/// Exponents that are tried.
const STEPS: usize = 20;
/// Rows of all readers of a fold that are tried, about.
const ROWS: usize = 384;
/// Rows of a matrix that are tried at least, if it has them.
const ROWS_MIN: usize = 8;
/// Channels see this part of the mean at least.
const LEAST: f64 = 1e-4;

impl Calibration<'_> {
    /// The factors of a layer's folds; the inputs become what they will be.
    pub(super) fn scaling(
        &self,
        folds: &[Fold],
        tensors: &[&Planned<'_>],
        inputs: &mut Inputs,
    ) -> Result<Scaling, CalibrateError> {
        let (mut scaling, mut known) = (Scaling::default(), Known::default());
        for fold in folds {
            if let Some(factors) = self.factors(fold, tensors, inputs, &mut known)? {
                scaling.add(self.model.file(), fold, &factors);
            }
        }
        let mut done = HashSet::new();
        for tensor in tensors {
            let source = Weight::mapped(self.model.file(), tensor.info);
            for matrix in 0..source.n {
                let Some((input, hessian)) = inputs.of_matrix_mut(&source.name, matrix) else {
                    continue;
                };
                let cols = scaling.cols(&source.name, matrix, source.cols);
                if let Some(cols) = cols.filter(|_| done.insert((input, matrix))) {
                    hessian.scale(cols);
                }
            }
        }
        Ok(scaling)
    }

    /// The factors of a fold; `None` if none are better, or the text never came to it.
    fn factors(
        &self,
        fold: &Fold,
        tensors: &[&Planned<'_>],
        inputs: &Inputs,
        known: &mut Known,
    ) -> Result<Option<Vec<f32>>, CalibrateError> {
        let mut sizes = vec![0.0; fold.channels];
        let mut trials = Vec::new();
        for Reader { weight, matrix } in &fold.readers {
            let Some(tensor) = tensors.iter().find(|tensor| tensor.info.name == *weight) else {
                continue;
            };
            let source = Weight::mapped(self.model.file(), tensor.info);
            let matrices = matrix.map_or(0..source.n, |matrix| matrix..matrix + 1);
            for matrix in matrices {
                let Some((input, hessian)) = inputs.of_matrix(weight, matrix) else { continue };
                known.add(input, matrix, hessian)?;
                for (&channel, size) in fold.channel_of.iter().zip(inputs.sizes(input, matrix)) {
                    sizes[channel] += size;
                }
                trials.push((*tensor, source.clone(), input, matrix));
            }
        }
        let candidates = candidates(&sizes);
        let mut costs = vec![0.0; candidates.len()];
        let rows = (ROWS / trials.len().max(1)).max(ROWS_MIN);
        let by_column: Vec<Vec<f32>> = candidates
            .iter()
            .map(|factors| fold.channel_of.iter().map(|&c| factors[c]).collect())
            .collect();
        for (tensor, source, input, matrix) in &trials {
            let x = self.some_rows(tensor, source, *matrix, rows)?;
            let form = known.form(*input, *matrix);
            let lost = self.lost(tensor, form, &x, &by_column)?;
            // As if all rows were tried.
            let weight = source.rows as f64 / (x.len() / source.cols) as f64;
            costs.iter_mut().zip(lost).for_each(|(cost, lost)| *cost += weight * lost);
        }
        let best = (1..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b]));
        let best = best.filter(|&best| costs[best] < costs[0]);
        Ok(best.map(|best| candidates[best].clone()))
    }

    /// Rows of a matrix, evenly spread.
    fn some_rows(
        &self,
        tensor: &Planned<'_>,
        source: &Weight,
        matrix: usize,
        rows: usize,
    ) -> Result<Vec<f32>, CalibrateError> {
        let kernels = self.kernels.types(source.ty);
        let kernels = kernels.ok_or_else(|| CalibrateError::no_kernels(tensor))?;
        let rows = rows.min(source.rows);
        let mut x = vec![0.0; rows * source.cols];
        for (i, x) in x.chunks_exact_mut(source.cols).enumerate() {
            let row = i * source.rows / rows;
            kernels.dequantize(source.rows_of(matrix, row..row + 1), x);
        }
        Ok(x)
    }

    /// What rows lose with each of several factors of their columns.
    fn lost(
        &self,
        tensor: &Planned<'_>,
        form: &Form,
        x: &[f32],
        factors: &[Vec<f32>],
    ) -> Result<Vec<f64>, CalibrateError> {
        let kernels = self.kernels.types(tensor.ty);
        let kernels = kernels.ok_or_else(|| CalibrateError::no_kernels(tensor))?;
        let trial = Trial { table: self.kernels, kernels, method: tensor.method, form };
        trial.lost(x, factors, self.threads).map_err(|error: QuantizeError| error.into())
    }
}

/// Factors for each exponent, the first of which are ones.
fn candidates(sizes: &[f64]) -> Vec<Vec<f32>> {
    let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
    if !(mean > 0.0 && mean.is_finite()) {
        return vec![vec![1.0; sizes.len()]];
    }
    let of_step = |step: usize| {
        let alpha = step as f64 / STEPS as f64;
        let powers: Vec<f64> =
            sizes.iter().map(|size| (size / mean).max(LEAST).powf(alpha)).collect();
        let (least, most) =
            powers.iter().fold((f64::MAX, 0.0), |(a, b): (f64, f64), &x| (a.min(x), b.max(x)));
        let middle = (least * most).sqrt();
        powers.iter().map(|power| (power / middle) as f32).collect()
    };
    (0..STEPS).map(of_step).collect()
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn factors_are_powers_around_one() {
        let all = candidates(&[1.0, 4.0, 0.0, 100.0]);
        assert!(all.len() == 20 && all[0] == [1.0; 4]);
        for factors in &all[1..] {
            let (least, most) = (factors[2], factors[3]);
            assert!((least * most - 1.0).abs() < 1e-5 && least > 0.0, "{factors:?}");
            assert!(factors[0] < factors[1] && factors[1] < most, "{factors:?}");
        }
        // Half of the exponent's range: roots.
        assert!((all[10][1] / all[10][0] - 2.0).abs() < 1e-5, "{:?}", all[10]);
        assert_eq!(candidates(&[0.0; 3]), [[1.0; 3]]);
    }
}
