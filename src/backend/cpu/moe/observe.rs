//! Inputs of the experts' products, shown to an observer.

use super::{Scratch, inputs};
use crate::backend::cpu::{Context, TokenSet, at_least};
use crate::backend::observer::Product;
use crate::backend::program::{BoundWeight, Moe};
use teff_kernels::ROWS_MAX;

impl Context<'_> {
    /// The inputs of the chosen experts' matrices, when the hidden activations are there.
    pub(super) fn show_experts(&self, op: &Moe, set: TokenSet<'_>, own: &mut Scratch) {
        self.show(|phase, observer| {
            let all = self.backend.moe.hidden.read(phase);
            let Scratch { routes, hidden, x, rows, .. } = own;
            for group in &routes.groups {
                let slots = &routes.slots[group.slots.clone()];
                let mut show = |weight: &BoundWeight, rows: &[f32]| {
                    let product = Product { weight: weight.id(), index: group.expert };
                    observer.matmul_input(product, weight.cols, rows);
                };
                let cols = op.up.weight.cols;
                let inputs_of_slots = at_least(rows, slots.len() * cols);
                for (&slot, row) in slots.iter().zip(inputs_of_slots.chunks_exact_mut(cols)) {
                    let token = routes.token(slot);
                    row.copy_from_slice(match set.len() <= ROWS_MAX {
                        true => &x[token * cols..][..cols],
                        false => &self.backend.moe.x.read_row(phase, token)[..cols],
                    });
                    if op.weigh_input {
                        (self.ops.scale)(row, routes.weights[slot as usize]);
                    }
                }
                inputs(op).for_each(|part| show(&part.weight, inputs_of_slots));
                let n_ff = hidden.n_ff;
                let activations = at_least(rows, slots.len() * n_ff);
                for (slot, row) in activations.chunks_exact_mut(n_ff).enumerate() {
                    hidden.copy(routes, group, slot, all, row);
                }
                show(&op.down.weight, activations);
            }
        });
    }
}
