//! Matrices pruned for inputs that are known.

use super::super::at_inputs::{OutputLoss, sum};
use super::super::error::QuantizeError;
use super::super::feedback::Feedback;
use super::super::form::{Buffers, Form};
use super::super::planned::Planned;
use super::super::share::share;
use super::{Pruning, feedback};
use crate::receipt::{Loss, loss_of};
use teff_kernels::{KernelTable, TypeKernels};

/// Rows that go through a product together.
const ROWS: usize = 32;

/// Some rows and their bytes, and where their blocks go.
type PartRows<'a> = ((&'a [f32], &'a [u8]), &'a mut [u8]);

/// How a matrix is pruned.
#[derive(Clone, Copy, Debug)]
pub struct PruneAtInputs<'a> {
    /// The tensor that it is a part of.
    pub tensor: &'a Planned<'a>,
    /// How weights of it become zero.
    pub pruning: &'a Pruning,
    /// Kernels that multiply.
    pub table: &'a KernelTable,
    /// Kernels of the type.
    pub kernels: &'a TypeKernels,
    /// Cost of errors.
    pub form: &'a Form,
    /// Feedback of errors to the columns behind them, in the file's order, where the method has that.
    pub feedback: Option<&'a Feedback>,
}

impl PruneAtInputs<'_> {
    /// Writes the blocks of the rows `x`, `[rows][columns]`, whose bytes are `old`. `before` of what
    /// outputs lost is by the magnitudes of weights alone. The bytes do not depend on the number of threads.
    ///
    /// # Errors
    /// The type has no zero, or there are no threads.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn prune(
        &self,
        (x, old): (&[f32], &[u8]),
        blocks: &mut [u8],
        threads: usize,
    ) -> Result<(OutputLoss, Loss), QuantizeError> {
        let n = self.form.cols();
        let n_rows = x.len() / n;
        assert!(x.len() == n_rows * n && old.len().is_multiple_of(n_rows), "whole rows");
        let [old_bytes, row_bytes] = [old.len(), blocks.len()].map(|bytes| bytes / n_rows);
        let mut losses = vec![(OutputLoss::default(), Loss::default()); n_rows.div_ceil(ROWS)];
        let parts = x.chunks(ROWS * n).zip(old.chunks(ROWS * old_bytes));
        let parts = parts.zip(blocks.chunks_mut(ROWS * row_bytes)).zip(&mut losses);
        let work = |(((x, old), blocks), loss): (PartRows<'_>, &mut _), buffers: &mut Buffers| {
            *loss = self.part(x, old, blocks, buffers)?;
            Ok(())
        };
        share(parts.collect(), threads, &work)?;
        Ok(sum(losses))
    }

    fn part(
        &self,
        x: &[f32],
        old: &[u8],
        blocks: &mut [u8],
        buffers: &mut Buffers,
    ) -> Result<(OutputLoss, Loss), QuantizeError> {
        let (n, importance) = (self.form.cols(), self.form.importance());
        let n_rows = x.len() / n;
        let rows = |x: &mut Vec<f32>, importance| {
            x.chunks_exact_mut(n).for_each(|x| self.pruning.row(x, importance));
        };
        let mut by_size = x.to_vec();
        rows(&mut by_size, None);
        let before = self.cost(x, &by_size, buffers);
        let pruned = match self.feedback {
            Some(own) => feedback::prune(own, self.table, self.pruning.sparsity, x, buffers),
            None => {
                let mut pruned = x.to_vec();
                rows(&mut pruned, Some(importance));
                pruned
            }
        };
        let [old_bytes, row_bytes] = [old.len(), blocks.len()].map(|bytes| bytes / n_rows);
        let all = pruned.chunks_exact(n).zip(old.chunks_exact(old_bytes));
        for (row, blocks) in all.zip(blocks.chunks_exact_mut(row_bytes)) {
            self.tensor.encode(self.kernels, row, Some(importance), blocks)?;
        }
        let mut written = vec![0.0; x.len()];
        self.kernels.dequantize(blocks, &mut written);
        let after = self.cost(x, &written, buffers);
        let size = self.form.costs(self.table, x, buffers).iter().sum();
        let mut loss = Loss::default();
        let rows = x.chunks_exact(n).zip(written.chunks_exact(n));
        rows.for_each(|(x, written)| loss.add(loss_of(x, written)));
        Ok((OutputLoss { before, after, size }, loss))
    }

    /// What outputs lose.
    fn cost(&self, x: &[f32], written: &[f32], buffers: &mut Buffers) -> f64 {
        let errors: Vec<f32> = x.iter().zip(written).map(|(x, y)| x - y).collect();
        self.form.costs(self.table, &errors, buffers).iter().sum()
    }
}
