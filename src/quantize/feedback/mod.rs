//! Error feedback: codes that make up for the errors of those before them (GPTQ; arXiv:2210.17323).
//!
//! A row `w` that becomes `q` costs `e H e`, `e = w - q`. With `H = R R^T`, `R` upper triangular, that is
//! the sum over columns `k` of `R[k][k]^2 (e[k] + sum over i < k of U[i][k] e[i])^2`, where
//! `U[i][k] = R[i][k] / R[k][k]`. So each column is rounded after the errors of the columns before it,
//! times `U`, were added to its weight: what GPTQ does, written as in QuIP (arXiv:2307.13304), without
//! an inverse. `R` comes of a Cholesky factorization of the reversed matrix, in f64.
//!
//! Scales are fitted to the changed weights when a block's first column is reached. Blocks, and columns
//! within a block, come in the order of falling sums of squares. Types that have codes for groups of
//! elements only (codebooks) are given whole blocks, which the errors of other blocks were added to.

mod factor;
mod rows;

use super::error::QuantizeError;
use super::form::{Buffers, DAMPING, mean_of};
use super::hessian::Hessian;
use super::product::{bytes_of, product};
use crate::tensor::memory::reserve;
use factor::{factorize, fill_reversed, order};
pub(super) use rows::Feed;
use teff_kernels::KernelTable;

/// Times that the damping is raised tenfold where the matrix is not positive definite.
const DAMPINGS: usize = 5;

/// Feedback: what errors of columns add to columns behind them, for blocks of one length.
#[derive(Debug)]
pub struct Feedback {
    /// Columns in the order in which they are rounded, a block's side by side.
    order: Vec<usize>,
    /// Columns of a block.
    len: usize,
    /// For each block in that order `[len][columns before]`, floats as bytes: `U` from the columns before.
    before: Vec<Vec<u8>>,
    /// For each block in that order `[len][len]`: `U` from each of its columns (rows) to each behind it.
    within: Vec<f32>,
    /// For each column in that order `R[k][k]^2`: what an error of 1 costs once the columns behind answer.
    costs: Vec<f32>,
}

impl Feedback {
    /// The feedback for blocks of `len` columns.
    ///
    /// # Errors
    /// There is no memory or there are no threads; or activations are no finite numbers.
    ///
    /// # Panics
    /// If columns are no whole number of blocks.
    pub fn new(hessian: &Hessian, len: usize, threads: usize) -> Result<Feedback, QuantizeError> {
        assert!(len > 0 && hessian.cols.is_multiple_of(len), "whole blocks");
        Feedback::of_order(hessian, order(&hessian.diagonal(), len), len, threads)
    }

    /// The same for columns that come in the order of the file.
    ///
    /// # Errors
    /// As [`Feedback::new`].
    ///
    /// # Panics
    /// If columns are no whole number of blocks.
    pub fn in_place(
        hessian: &Hessian,
        len: usize,
        threads: usize,
    ) -> Result<Feedback, QuantizeError> {
        assert!(len > 0 && hessian.cols.is_multiple_of(len), "whole blocks");
        Feedback::of_order(hessian, (0..hessian.cols).collect(), len, threads)
    }

    fn of_order(
        hessian: &Hessian,
        order: Vec<usize>,
        len: usize,
        threads: usize,
    ) -> Result<Feedback, QuantizeError> {
        let n = hessian.cols;
        // Inputs of zeros leave nothing to feed back.
        let mean = mean_of(&hessian.diagonal())?;
        let mut factor = Vec::new();
        reserve(&mut factor, n * n, "the factors of a Hessian")?;
        let mut damping = DAMPING * mean;
        for _ in 0..DAMPINGS {
            fill_reversed(&mut factor, hessian, &order, damping);
            if factorize(&mut factor, n, threads)? {
                return Ok(Feedback::of_factor(&factor, order, len));
            }
            damping *= 10.0;
        }
        Err(QuantizeError::NotFiniteInputs)
    }

    /// Reads `U` off the factor `L` of the reversed matrix: `R[i][k]` is
    /// `L[n - 1 - i][n - 1 - k]`.
    fn of_factor(l: &[f64], order: Vec<usize>, len: usize) -> Feedback {
        let n = order.len();
        let r = |i: usize, k: usize| l[(n - 1 - i) * n + n - 1 - k];
        let mut within = vec![0.0; n * len];
        let before = (0..n).step_by(len).map(|start| {
            let mut u = vec![0.0; len * start];
            for i in 0..start {
                for p in 0..len {
                    u[p * start + i] = (r(i, start + p) / r(start + p, start + p)) as f32;
                }
            }
            for i in 0..len {
                for p in i + 1..len {
                    let u = r(start + i, start + p) / r(start + p, start + p);
                    within[(start + i) * len + p] = u as f32;
                }
            }
            bytes_of(&u)
        });
        let before = before.collect();
        let costs = (0..n).map(|k| (r(k, k) * r(k, k)) as f32).collect();
        Feedback { order, len, before, within, costs }
    }

    /// Columns.
    pub(super) fn cols(&self) -> usize {
        self.order.len()
    }

    /// Columns of a block.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cost of an error of 1 of each column once those behind it answer, in the order of rounding.
    pub(super) fn costs(&self) -> &[f32] {
        &self.costs
    }

    /// What an error of the `k`-th column adds to those of its block behind it.
    pub(super) fn within(&self, k: usize) -> &[f32] {
        &self.within[k * self.len + k % self.len + 1..(k + 1) * self.len]
    }

    /// What errors `[rows][columns]`, columns in the order of rounding, add to the columns of a block:
    /// `[rows][len]`.
    pub(super) fn add_of_before(
        &self,
        table: &KernelTable,
        block: usize,
        errors: &[f32],
        (scratch, y): &mut Buffers,
    ) {
        let (n, start) = (self.order.len(), block * self.len);
        let rows = errors.len() / n;
        if start == 0 {
            y.clear();
            y.resize(rows * self.len, 0.0);
            return;
        }
        let known: Vec<f32> =
            errors.chunks_exact(n).flat_map(|row| &row[..start]).copied().collect();
        product(table, &self.before[block], &known, start, scratch, y);
    }
}

/// `y += a x`, as far as `y` goes.
pub(super) fn add_times(y: &mut [f32], a: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

#[cfg(test)]
mod tests {
    use super::super::form::Form;
    use super::*;
    use crate::random::SplitMix64;

    /// Columns behind some that answer to their errors as feedback has it make the cost least: no change of
    /// them would lower it.
    #[test]
    fn answers_to_errors_are_the_best_there_are() {
        const COLS: usize = 96;
        let mut random = SplitMix64::new(3);
        let mut draw = || (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let mut hessian = Hessian::new(COLS).unwrap();
        let table = KernelTable::detect();
        // In two parts, of which one is no whole number of anything.
        for (inputs, threads) in [(33, 1), (90, 3)] {
            let x: Vec<f32> = (0..inputs * COLS).map(|i| draw() * (1 + i % 7) as f32).collect();
            hessian.add(table, &x, threads).unwrap();
        }
        let feedback = Feedback::new(&hessian, 32, 2).unwrap();
        let mut sorted = feedback.order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..COLS));
        const GIVEN: usize = 40;
        let mut errors: Vec<f32> = (0..COLS).map(|_| draw()).collect();
        let mut y = Buffers::default();
        for k in GIVEN..COLS {
            let (block, p) = (k / 32, k % 32);
            feedback.add_of_before(table, block, &errors, &mut y);
            let within = (block * 32..k).map(|i| errors[i] * feedback.within[i * 32 + p]);
            errors[k] = -(y.1[p] + within.sum::<f32>());
        }
        let mut by_column = vec![0.0; COLS];
        feedback.order.iter().zip(&errors).for_each(|(&c, &e)| by_column[c] = e);
        let form = Form::new(&hessian).unwrap();
        let slopes = form.times(table, &by_column, &mut y);
        let slope = |k: usize| slopes[feedback.order[k]].abs();
        let most = (0..GIVEN).map(slope).fold(0.0, f32::max);
        assert!((GIVEN..COLS).all(|k| slope(k) < 1e-3 * most), "{slopes:?}");
    }
}
