//! Operations on parallel residual streams, and on what is large among activations.
//!
//! A token's work is done by one worker in one order, in f32 but for the statistics of
//! [`sparsify`], which are summed in f64.

use super::{Context, WorkerScratch, at_least};
use crate::backend::program::{MixStreams, STREAMS_MAX};

impl Context<'_> {
    /// Scales each part of `row` to the length of `to`; a part of zeros stays.
    pub(super) fn match_length(&self, to: &[f32], row: &mut [f32]) {
        let length = |x: &[f32]| (self.ops.dot)(x, x).sqrt();
        let target = length(to);
        for part in row.chunks_exact_mut(to.len()) {
            let own = length(part);
            if own > 0.0 {
                (self.ops.scale)(part, target / own);
            }
        }
    }

    pub(super) fn mix_streams(&self, op: &MixStreams, scratch: &mut WorkerScratch) {
        let made = op.made.map(|made| &self.backend.buffers[made.0]);
        let n = op.n;
        self.change(op.streams, op.rows, |phase, token, row| {
            let width = row.len() / n;
            let made = made.map(|made| made.read_row(phase, token));
            let buffer = at_least(&mut scratch.row, row.len());
            self.normalize(&op.norm, made.unwrap_or(&row[..width]), &mut buffer[..width]);
            let router = op.router.chunks_exact(width);
            let mut modes = [0.0; STREAMS_MAX];
            for (mode, weights) in modes.iter_mut().zip(router) {
                *mode = (self.ops.dot)(&buffer[..width], weights).tanh();
            }
            let rows = op.coefficients.chunks_exact(n);
            let coefficients =
                rows.map(|row| row.iter().zip(modes).map(|(a, b)| a * b).sum::<f32>());
            match made {
                Some(made) => {
                    let change = &mut buffer[..width];
                    change.copy_from_slice(made);
                    (self.ops.add_scaled)(change, &row[..width], -1.0);
                    for (stream, by) in row.chunks_exact_mut(width).zip(coefficients) {
                        (self.ops.add_scaled)(stream, change, 1.0 + by);
                    }
                }
                None => {
                    let old = &mut buffer[..row.len()];
                    old.copy_from_slice(row);
                    for (i, by) in coefficients.enumerate() {
                        let (to, from) = (i / n * width, i % n * width);
                        let from = &old[from..from + width];
                        (self.ops.add_scaled)(&mut row[to..to + width], from, by);
                    }
                }
            }
        });
    }
}

/// Subtracts the mean and `deviations` standard deviations; what is negative then becomes 0.
pub(super) fn sparsify(x: &mut [f32], deviations: f32) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
    let deviation = (squares / (n - 1.0).max(1.0)).sqrt();
    let cut = (mean + deviation * f64::from(deviations)) as f32;
    x.iter_mut().for_each(|x| *x = (*x - cut).max(0.0));
}

#[cfg(test)]
mod tests {
    use super::sparsify;

    #[test]
    fn sparsify_keeps_what_is_above_the_deviations() {
        let mut x = [0.0, 1.0, 2.0, 9.0];
        // Mean 3, sum of squares 50, deviation sqrt(50 / 3).
        sparsify(&mut x, 1.0);
        assert_eq!(x[..3], [0.0; 3]);
        assert!((f64::from(x[3]) - (6.0 - (50.0f64 / 3.0).sqrt())).abs() < 1e-6);
    }
}
