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
use super::hessian::Hessian;
use super::method::Method;
use super::product::{bytes_of, product};
use super::share::share;
use crate::tensor::memory::reserve;
use factor::{factorize, fill_reversed, order};
use rows::Rows;
use teff_kernels::{KernelTable, Scratch, TypeKernels};

/// Rows that go through a product together.
const ROWS: usize = 32;
/// Added to the diagonal, as a part of its mean, as in GPTQ.
const DAMPING: f64 = 0.01;
/// Times that the damping is raised tenfold where the matrix is not positive definite.
const DAMPINGS: usize = 5;

/// What errors of columns add to columns behind them, for blocks of one length.
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
    /// `R[k][k]^2` in that order.
    costs: Vec<f64>,
    /// Diagonal of the Hessian, by column: how much an error counts alone.
    importance: Vec<f32>,
}

/// What a matrix lost: the trace of `E H E^T`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputLoss {
    /// Without feedback.
    pub before: f64,
    /// Of what was written.
    pub after: f64,
    /// Of no weights at all: the size of the output.
    pub size: f64,
}

impl OutputLoss {
    /// Adds what other rows lost.
    pub fn add(&mut self, other: OutputLoss) {
        self.before += other.before;
        self.after += other.after;
        self.size += other.size;
    }
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
        let n = hessian.cols;
        assert!(len > 0 && n.is_multiple_of(len), "whole blocks");
        let importance = hessian.diagonal();
        let order = order(&importance, len);
        let mean = importance.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        if !mean.is_finite() {
            return Err(QuantizeError::NotFiniteInputs);
        }
        // Inputs of zeros leave nothing to feed back.
        let mean = if mean > 0.0 { mean } else { 1.0 };
        let mut factor = Vec::new();
        reserve(&mut factor, n * n, "the factors of a Hessian")?;
        let mut damping = DAMPING * mean;
        for _ in 0..DAMPINGS {
            fill_reversed(&mut factor, hessian, &order, damping);
            if factorize(&mut factor, n, threads)? {
                return Ok(Feedback::of_factor(&factor, order, len, importance));
            }
            damping *= 10.0;
        }
        Err(QuantizeError::NotFiniteInputs)
    }

    /// Reads `U` and the costs off the factor `L` of the reversed matrix: `R[i][k]` is
    /// `L[n - 1 - i][n - 1 - k]`.
    fn of_factor(l: &[f64], order: Vec<usize>, len: usize, importance: Vec<f32>) -> Feedback {
        let n = order.len();
        let r = |i: usize, k: usize| l[(n - 1 - i) * n + n - 1 - k];
        let costs = (0..n).map(|k| r(k, k) * r(k, k)).collect();
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
        Feedback { order, len, before, within, costs, importance }
    }

    /// How much an error of each column counts by itself: as an importance matrix has it.
    pub fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// Writes the blocks of the rows `x`, `[rows][columns]`: with feedback, or by the method alone where
    /// that loses less. The bytes do not depend on the number of threads.
    ///
    /// # Errors
    /// The method has no way to the type, or there are no threads.
    ///
    /// # Panics
    /// If lengths do not fit, or the type has blocks of another length.
    pub fn quantize(
        &self,
        table: &KernelTable,
        (kernels, method): (&TypeKernels, &Method),
        x: &[f32],
        blocks: &mut [u8],
        threads: usize,
    ) -> Result<OutputLoss, QuantizeError> {
        let n = self.order.len();
        assert!(kernels.ty.block_len() == self.len, "blocks of the feedback's length");
        let row_bytes = n / self.len * kernels.ty.block_bytes();
        let n_rows = x.len() / n;
        assert!(x.len() == n_rows * n && blocks.len() == n_rows * row_bytes, "whole rows");
        let mut losses = vec![OutputLoss::default(); n_rows.div_ceil(ROWS)];
        let parts = x.chunks(ROWS * n).zip(blocks.chunks_mut(ROWS * row_bytes)).zip(&mut losses);
        let work = |((x, blocks), loss): ((&[f32], &mut [u8]), &mut OutputLoss),
                    scratch: &mut (Scratch, Vec<f32>)| {
            let rows = Rows { feedback: self, table, kernels, method, x, row_bytes };
            *loss = rows.quantize(blocks, scratch)?;
            Ok(())
        };
        share(parts.collect(), threads, &work)?;
        let mut sum = OutputLoss::default();
        losses.into_iter().for_each(|loss| sum.add(loss));
        Ok(sum)
    }

    /// What errors `[rows][columns]`, columns in the order of rounding, add to the columns of a block:
    /// `[rows][len]`.
    fn add_of_before(
        &self,
        table: &KernelTable,
        block: usize,
        errors: &[f32],
        (scratch, y): &mut (Scratch, Vec<f32>),
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

    /// What each row of errors costs; columns are in the order of rounding.
    fn costs_of(
        &self,
        table: &KernelTable,
        errors: &[f32],
        buffers: &mut (Scratch, Vec<f32>),
    ) -> Vec<f64> {
        let (n, len) = (self.order.len(), self.len);
        let mut costs = vec![0.0; errors.len() / n];
        for block in 0..n / len {
            self.add_of_before(table, block, errors, buffers);
            let start = block * len;
            for ((e, y), cost) in
                errors.chunks_exact(n).zip(buffers.1.chunks_mut(len)).zip(&mut costs)
            {
                let e = &e[start..start + len];
                for (p, &e) in e.iter().enumerate() {
                    add_times(&mut y[p + 1..], e, &self.within[(start + p) * len + p + 1..]);
                    let rounding = f64::from(e) + f64::from(y[p]);
                    *cost += self.costs[start + p] * rounding * rounding;
                }
            }
        }
        costs
    }
}

/// `y += a x`, as far as `y` goes.
fn add_times(y: &mut [f32], a: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::METHODS;
    use crate::random::SplitMix64;
    use gguf_rs_lite::GgmlType;

    const COLS: usize = 512;

    /// Inputs whose columns go together, some of which are zero, and rows of weights.
    fn inputs(rows: usize) -> (Hessian, Vec<f32>, Vec<f32>) {
        let mut random = SplitMix64::new(7);
        let mut draw = || (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let mut x = Vec::new();
        for _ in 0..700 {
            let common: Vec<f32> = (0..8).map(|_| draw()).collect();
            let column = |c: usize| match c % 50 {
                49 => 0.0,
                _ => (common[c % 8] + 0.3 * draw()) * (1.0 + (c % 5) as f32),
            };
            let row: Vec<f32> = (0..COLS).map(column).collect();
            x.extend(row);
        }
        let w = (0..rows * COLS).map(|_| draw() + draw() + draw()).collect();
        let mut hessian = Hessian::new(COLS).unwrap();
        let kernels = KernelTable::detect();
        // In two parts, of which one is no whole number of anything.
        hessian.add(kernels, &x[..33 * COLS], 1).unwrap();
        hessian.add(kernels, &x[33 * COLS..], 3).unwrap();
        (hessian, x, w)
    }

    #[test]
    fn a_hessian_is_the_sum_over_inputs() {
        let (hessian, x, _) = inputs(1);
        assert_eq!(hessian.rows, 700);
        for (a, b) in [(0, 0), (3, 11), (11, 3), (510, 511), (49, 5), (96, 95)] {
            let product = |row: &[f32]| f64::from(row[a]) * f64::from(row[b]);
            let sum: f64 = x.chunks_exact(COLS).map(product).sum();
            let found = f64::from(hessian.at(a, b));
            assert!((found - sum).abs() <= 1e-4 * sum.abs().max(1.0), "{a} {b}: {found} {sum}");
        }
    }

    /// The cost by factors is `e H e`, with the damped Hessian.
    #[test]
    fn costs_are_those_of_the_hessian() {
        let (hessian, _, w) = inputs(3);
        let feedback = Feedback::new(&hessian, 32, 2).unwrap();
        let mut sorted = feedback.order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..COLS));
        let by_rounding: Vec<f32> =
            w.chunks_exact(COLS).flat_map(|w| feedback.order.iter().map(|&c| w[c])).collect();
        let kernels = KernelTable::detect();
        let costs = feedback.costs_of(kernels, &by_rounding, &mut Default::default());
        let mean = hessian.diagonal().iter().map(|&x| f64::from(x)).sum::<f64>() / COLS as f64;
        for (w, cost) in w.chunks_exact(COLS).zip(costs) {
            let mut sum = 0.0;
            for a in 0..COLS {
                for b in 0..COLS {
                    let damping = if a == b { DAMPING * mean } else { 0.0 };
                    let h = f64::from(hessian.at(a, b)) + damping;
                    sum += f64::from(w[a]) * h * f64::from(w[b]);
                }
            }
            assert!((cost - sum).abs() <= 1e-4 * sum, "{cost} {sum}");
        }
    }

    /// Feedback loses less where columns go together, never more, and writes the same bytes for any
    /// number of threads: in types of every kind.
    #[test]
    fn outputs_lose_less_in_all_types() {
        let (hessian, _, w) = inputs(70);
        let table = KernelTable::detect();
        use GgmlType::*;
        for ty in [Q4_0, Q4_1, Q8_0, Q2_K, Q3_K, Q4_K, Q6_K, IQ4_NL, IQ4_XS, IQ3_S, IQ2_XS, MXFP4] {
            let kernels = table.types(ty).unwrap();
            let feedback = Feedback::new(&hessian, ty.block_len(), 2).unwrap();
            let made = [1, 3].map(|threads| {
                let mut blocks = vec![0; w.len() / ty.block_len() * ty.block_bytes()];
                let loss =
                    feedback.quantize(table, (kernels, &METHODS[0]), &w, &mut blocks, threads);
                (loss.unwrap(), blocks)
            });
            assert!(made[0] == made[1], "{ty}: threads");
            let [(loss, blocks), _] = made;
            // Codebooks have whole blocks fed back only, of which there are two here: that gains little or
            // nothing.
            let most = if kernels.encoder().is_ok() { 0.9 } else { 1.0 };
            assert!(loss.after <= most * loss.before, "{ty}: {loss:?}");
            assert!(loss.after > 0.0 && loss.before < loss.size, "{ty}: {loss:?}");
            // What is told is what the blocks hold.
            let mut values = vec![0.0; w.len()];
            kernels.dequantize(&blocks, &mut values);
            let errors: Vec<f32> = w
                .chunks_exact(COLS)
                .zip(values.chunks_exact(COLS))
                .flat_map(|(w, v)| feedback.order.iter().map(|&c| w[c] - v[c]))
                .collect();
            let costs = feedback.costs_of(table, &errors, &mut Default::default());
            let sum: f64 = costs.iter().sum();
            assert!((sum - loss.after).abs() <= 1e-6 * sum, "{ty}: {sum} {}", loss.after);
        }
    }

    #[test]
    fn inputs_of_zeros_feed_nothing_back() {
        let hessian = Hessian::new(64).unwrap();
        let feedback = Feedback::new(&hessian, 32, 1).unwrap();
        let (table, w) = (KernelTable::detect(), vec![0.3; 64]);
        let kernels = table.types(GgmlType::Q4_0).unwrap();
        let [mut fed, mut alone] = [vec![0; 36], vec![0; 36]];
        feedback.quantize(table, (kernels, &METHODS[0]), &w, &mut fed, 1).unwrap();
        kernels.quantize(&w, Some(&[0.0; 64]), &mut alone).unwrap();
        assert_eq!(fed, alone);
    }

    #[test]
    fn inputs_that_are_no_numbers_are_an_error() {
        let mut hessian = Hessian::new(64).unwrap();
        let mut x = vec![1.0; 64];
        x[3] = f32::NAN;
        hessian.add(KernelTable::detect(), &x, 1).unwrap();
        let error = Feedback::new(&hessian, 32, 1).unwrap_err();
        assert!(matches!(error, QuantizeError::NotFiniteInputs), "{error}");
    }
}
