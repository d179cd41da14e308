//! SparseGPT (arXiv:2301.00774): weights that make up for those before them that became zero.
//!
//! It is the feedback of errors that [`Feedback`] has, with zero in the place of a code: a weight that stays
//! takes what the errors before it add, and a weight that goes costs its square times that of its
//! column's factor. Columns come in the order of the file. Which weights of a row go is chosen part by
//! part, when a part's first column is reached, or group by group of neighbours.

use super::super::feedback::{Feedback, add_times};
use super::super::form::Buffers;
use super::sparsity::{Sparsity, choose};
use teff_kernels::KernelTable;

/// Columns among which weights are chosen, about, as in the paper.
const PART: usize = 128;

/// Columns that are chosen among together: the divisor of `columns` nearest below one and a half times 128
/// that is a multiple of `group`; all of them if there is none above 16.
pub fn block_len(columns: usize, group: usize) -> usize {
    let group = group.max(1);
    let fits = |len: &usize| columns.is_multiple_of(*len) && len.is_multiple_of(group);
    (16..=PART * 3 / 2).rev().find(fits).unwrap_or(columns)
}

/// Prunes rows `x`, `[rows][columns]`; returns the weights that come of them.
pub(super) fn prune(
    feedback: &Feedback,
    table: &KernelTable,
    sparsity: Sparsity,
    x: &[f32],
    buffers: &mut Buffers,
) -> Vec<f32> {
    let (n, len) = (feedback.cols(), feedback.len());
    let (mut errors, mut pruned) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for start in (0..n).step_by(len) {
        feedback.add_of_before(table, start / len, &errors, buffers);
        let n_zeros = sparsity.zeros(start + len) - sparsity.zeros(start);
        for (row, added) in buffers.1.chunks_mut(len).enumerate() {
            let at = row * n + start..row * n + start + len;
            let (x, errors) = (&x[at.clone()], &mut errors[at.clone()]);
            block(feedback, start, (sparsity, n_zeros), x, added, errors, &mut pruned[at]);
        }
    }
    pruned
}

/// A part of a row, column by column; `added` is what the errors of the columns before add.
fn block(
    feedback: &Feedback,
    start: usize,
    (sparsity, n_zeros): (Sparsity, usize),
    x: &[f32],
    added: &mut [f32],
    errors: &mut [f32],
    pruned: &mut [f32],
) {
    let len = x.len();
    let group = sparsity.group().unwrap_or(len);
    let of_group = if sparsity.group().is_some() { sparsity.zeros(group) } else { n_zeros };
    let costs = &feedback.costs()[start..start + len];
    let mut is_zero = vec![false; len];
    for p in 0..len {
        if p % group == 0 {
            let own = p..p + group;
            let weights: Vec<f32> = own.clone().map(|p| x[p] + added[p]).collect();
            let scores = weights.iter().zip(&costs[own.clone()]).map(|(w, cost)| w * w * cost);
            choose(of_group, &weights, &scores.collect::<Vec<f32>>(), &mut is_zero[own]);
        }
        pruned[p] = if is_zero[p] { 0.0 } else { x[p] + added[p] };
        errors[p] = x[p] - pruned[p];
        add_times(&mut added[p + 1..], errors[p], feedback.within(start + p));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::super::{PruneMethod, Pruning};
    use super::*;
    use crate::quantize::Form;
    use crate::quantize::hessian::Hessian;
    use crate::random::SplitMix64;

    const COLS: usize = 192;
    const ROWS: usize = 24;

    /// Inputs whose columns go together, some louder than others, and weights.
    fn drawn(seed: u64) -> (Hessian, Vec<f32>) {
        let mut random = SplitMix64::new(seed);
        let mut draw = || (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let mixing: Vec<f32> = (0..20 * COLS).map(|_| draw()).collect();
        let mut x = Vec::new();
        for _ in 0..400 {
            let common: Vec<f32> = (0..20).map(|_| draw()).collect();
            for c in 0..COLS {
                let sum: f32 =
                    common.iter().enumerate().map(|(k, a)| a * mixing[k * COLS + c]).sum();
                x.push((sum + 0.2 * draw()) * (1.0 + (c * 13 % 9) as f32));
            }
        }
        let mut hessian = Hessian::new(COLS).unwrap();
        hessian.add(KernelTable::detect(), &x, 1).unwrap();
        (hessian, (0..ROWS * COLS).map(|_| draw() + draw() + draw()).collect())
    }

    /// With inputs that go together outputs lose less by Wanda than by magnitudes, and by far less where
    /// what stays makes up for what goes, of which there are exactly as many.
    #[test]
    fn what_stays_makes_up_for_what_goes() {
        let table = KernelTable::detect();
        for (seed, text) in [(1, "0.5"), (2, "0.7"), (3, "2:4"), (4, "4:8"), (5, "0.33")] {
            let sparsity: Sparsity = text.parse().unwrap();
            let (hessian, w) = drawn(seed);
            let form = Form::new(&hessian).unwrap();
            let mut buffers = Buffers::default();
            let mut cost = |pruned: &[f32]| -> f64 {
                let errors: Vec<f32> = w.iter().zip(pruned).map(|(w, p)| w - p).collect();
                form.costs(table, &errors, &mut buffers).iter().sum()
            };
            let mut by = |name: &str| {
                let method = PruneMethod::from_name(name).unwrap();
                let pruning = Pruning::new(method, sparsity, &[]).unwrap();
                let mut pruned = w.clone();
                let rows = pruned.chunks_exact_mut(COLS);
                rows.for_each(|row| pruning.row(row, Some(form.importance())));
                cost(&pruned)
            };
            let (magnitude, wanda) = (by("magnitude"), by("wanda"));
            let len = block_len(COLS, sparsity.group().unwrap_or(1));
            let feedback = Feedback::in_place(&hessian, len, 2).unwrap();
            let pruned = prune(&feedback, table, sparsity, &w, &mut Buffers::default());
            let own = cost(&pruned);
            assert!(own < 0.6 * wanda && wanda < magnitude, "{text}: {own} {wanda} {magnitude}");
            for row in pruned.chunks_exact(COLS) {
                let zeros = |x: &[f32]| x.iter().filter(|x| **x == 0.0).count();
                assert_eq!(zeros(row), sparsity.zeros(COLS), "{text}");
                let group = sparsity.group().unwrap_or(COLS);
                assert!(row.chunks(group).all(|row| zeros(row) == sparsity.zeros(group)), "{text}");
            }
        }
    }

    #[test]
    fn parts_are_whole_groups() {
        let cases =
            [(576, 1), (576, 4), (1536, 8), (2048, 32), (4096, 4), (11008, 4), (34, 1), (7, 7)];
        for (columns, group) in cases {
            let len = block_len(columns, group);
            assert!(columns.is_multiple_of(len) && len.is_multiple_of(group), "{columns}");
            assert!(len <= 192 || len == columns, "{columns}");
        }
        assert_eq!([(576, 4), (2048, 4), (1536, 8)].map(|(n, g)| block_len(n, g)), [192, 128, 192]);
    }
}
