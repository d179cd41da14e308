//! Clipping (`auto_clip` of AWQ; arXiv:2306.00978): ranges of groups that are shrunk before they are
//! quantized, where the outputs lose less by that.
//!
//! Weights of each block are cut to parts of their groups' largest magnitudes, from all of it down to
//! just above a half, and quantized. The part is taken with which the block's own part of the outputs loses
//! least: `e H e` of its columns among themselves. What blocks do to each other is seen in the end: a row that
//! loses more of its outputs with all its clipped blocks stays as it was.
//!
//! Cost: ten times the method's first step. Memory: 4 bytes times the columns, times those of a block.

use super::at_inputs::{AtInputs, errors};
use super::error::QuantizeError;
use super::form::{Buffers, dot};
use super::product::product;

/// Parts of a range that are told apart.
const GRID: usize = 20;
/// Ranges that are tried: from the whole one to 11 of those parts, as AutoAWQ does.
const STEPS: usize = 10;

/// Clips rows of one type.
pub(super) struct Clip<'a> {
    way: &'a AtInputs<'a>,
    /// For each block the form of its columns among themselves, `[len][len]`, floats as bytes.
    within: Vec<Vec<u8>>,
    /// Elements of a block.
    len: usize,
    /// Elements of a group that is clipped.
    group: usize,
}

impl<'a> Clip<'a> {
    /// For the rows of a matrix.
    pub fn new(way: &'a AtInputs<'a>) -> Clip<'a> {
        let len = way.kernels.ty.block_len();
        let group = way.kernels.encoder().map_or(len, |encoder| encoder.group);
        let own = (0..way.form.cols()).step_by(len).map(|first| first..first + len);
        let within = own.map(|own| way.form.part(own.clone(), own)).collect();
        Clip { way, within, len, group }
    }

    /// Changes blocks of the rows `x`, `[rows][columns]`, whose costs are given, where these fall.
    pub fn rows(
        &self,
        x: &[f32],
        blocks: &mut [u8],
        costs: &mut [f64],
        buffers: &mut Buffers,
    ) -> Result<(), QuantizeError> {
        let (way, kernels) = (self.way, self.way.kernels);
        let mut best = blocks.to_vec();
        let mut least = self.costs(&errors(kernels, x, blocks), buffers);
        let mut tried = vec![0; blocks.len()];
        for step in 1..STEPS {
            let clipped = self.clipped(x, 1.0 - step as f32 / GRID as f32);
            way.alone(&clipped, way.form.importance(), &mut tried)?;
            let costs = self.costs(&errors(kernels, x, &tried), buffers);
            let block_bytes = kernels.ty.block_bytes();
            let pairs = best.chunks_exact_mut(block_bytes).zip(tried.chunks_exact(block_bytes));
            for ((least, cost), (best, tried)) in least.iter_mut().zip(costs).zip(pairs) {
                if cost < *least {
                    *least = cost;
                    best.copy_from_slice(tried);
                }
            }
        }
        let new = way.form.costs(way.table, &errors(kernels, x, &best), buffers);
        let row_bytes = blocks.len() / costs.len();
        let rows = blocks.chunks_exact_mut(row_bytes).zip(best.chunks_exact(row_bytes));
        for ((old, best), (cost, new)) in rows.zip(costs.iter_mut().zip(new)) {
            if new < *cost {
                old.copy_from_slice(best);
                *cost = new;
            }
        }
        Ok(())
    }

    /// Rows whose groups have no more than a part of their largest magnitude.
    fn clipped(&self, x: &[f32], part: f32) -> Vec<f32> {
        let mut clipped = x.to_vec();
        for group in clipped.chunks_exact_mut(self.group) {
            let most = part * group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            group.iter_mut().for_each(|x| *x = x.clamp(-most, most));
        }
        clipped
    }

    /// Costs of the errors of each block among themselves, `[rows][blocks]`.
    fn costs(&self, errors: &[f32], (scratch, y): &mut Buffers) -> Vec<f64> {
        let (len, n_blocks) = (self.len, self.within.len());
        let n_rows = errors.len() / (n_blocks * len);
        let mut costs = vec![0.0; n_rows * n_blocks];
        let mut own = Vec::with_capacity(n_rows * len);
        for (number, within) in self.within.iter().enumerate() {
            own.clear();
            let rows = errors.chunks_exact(n_blocks * len);
            own.extend(rows.flat_map(|row| &row[number * len..][..len]));
            product(self.way.table, within, &own, len, scratch, y);
            let rows = own.chunks_exact(len).zip(y.chunks_exact(len)).enumerate();
            rows.for_each(|(row, (e, y))| costs[row * n_blocks + number] = dot(e, y));
        }
        costs
    }
}

#[cfg(test)]
mod tests {
    use crate::quantize::Form;
    use crate::quantize::at_inputs::tests::{Made, drawn, make};
    use gguf_rs_lite::GgmlType::*;
    use teff_kernels::KernelTable;

    /// Clipped ranges never lose more of the outputs, row by row, and less together where there is something to cut.
    #[test]
    fn clipped_ranges_lose_less() {
        for ty in [Q4_0, Q4_1, Q5_0, Q8_0, Q2_K, Q3_K, Q4_K, Q6_K, IQ4_NL, IQ4_XS, IQ3_S, MXFP4] {
            let (hessian, w) = drawn(13, 700, 40);
            let [alone, clipped, refitted] =
                ["awq", "awq+clip", "awq+clip+refit"].map(|method| make(ty, method, &hessian, &w));
            let form = Form::new(&hessian).unwrap();
            let costs = |made: &Made| {
                form.costs(KernelTable::detect(), &made.errors, &mut Default::default())
            };
            for (alone, clipped) in costs(&alone).into_iter().zip(costs(&clipped)) {
                assert!(clipped <= alone * (1.0 + 1e-5), "{ty}: {clipped} {alone}");
            }
            let (after, before) = (clipped.loss.after, clipped.loss.before);
            let is_less = after < before || matches!(ty, Q8_0 | Q6_K | MXFP4) && after == before;
            assert!(is_less, "{ty}: {after} {before}");
            assert!(refitted.loss.after <= after, "{ty}: {refitted:?}", refitted = refitted.loss);
        }
    }
}
