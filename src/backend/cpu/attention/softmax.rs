//! The running softmax of attention: chunks of keys are summed by themselves and merged in
//! ascending order, rescaled to the larger maximum.

use super::super::resize;
use teff_kernels::FloatOps;

/// Softmax and weighted sums of some rows over some keys.
#[derive(Default)]
pub struct Softmax {
    /// `[key/value heads][rows]`
    pub rows: Vec<SoftmaxState>,
    /// `[key/value heads][rows][v_dim]`: values weighted with `exp(score - max)`.
    pub sums: Vec<f32>,
}

/// Running softmax of a row (arXiv:1805.02867): the largest score, which its sums are relative to,
/// and the sum of `exp(score - max)`, which is 0 before the first key and at least 1 after it.
#[derive(Clone, Copy)]
pub struct SoftmaxState {
    pub max: f32,
    pub total: f32,
}

impl SoftmaxState {
    /// State before the first key.
    pub const NONE: SoftmaxState = SoftmaxState { max: f32::NEG_INFINITY, total: 0.0 };

    /// Adds the keys of `other`, which come after, with their weighted sums.
    pub fn merge(
        &mut self,
        sums: &mut [f32],
        other: SoftmaxState,
        other_sums: &[f32],
        ops: &FloatOps,
    ) {
        if other.total == 0.0 {
            return;
        }
        if self.total == 0.0 {
            *self = other;
            sums.copy_from_slice(other_sums);
            return;
        }
        let max = if other.max > self.max { other.max } else { self.max };
        let mut factors = [self.max, other.max];
        (ops.exp_sum)(&mut factors, max);
        // A factor of 1 changes nothing.
        if factors[0] != 1.0 {
            (ops.scale)(sums, factors[0]);
        }
        (ops.add_scaled)(sums, other_sums, factors[1]);
        let total = other.total.mul_add(factors[1], self.total * factors[0]);
        *self = SoftmaxState { max, total };
    }
}

impl Softmax {
    /// Forgets all keys.
    pub fn reset(&mut self, n_rows: usize, v_dim: usize) {
        self.rows.clear();
        self.rows.resize(n_rows, SoftmaxState::NONE);
        self.sums.clear();
        resize(&mut self.sums, n_rows * v_dim);
    }

    /// Adds the keys of `other`, which come after, row by row.
    pub fn merge(&mut self, other: &Softmax, v_dim: usize, ops: &FloatOps) {
        let rows = self.rows.iter_mut().zip(self.sums.chunks_exact_mut(v_dim));
        let others = other.rows.iter().zip(other.sums.chunks_exact(v_dim));
        for ((row, sums), (&other, other_sums)) in rows.zip(others) {
            row.merge(sums, other, other_sums, ops);
        }
    }
}
