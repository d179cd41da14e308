//! The two phases of a grouped product: hidden activations, and outputs.

use super::{Scratch, inputs, parts};
use crate::backend::cpu::matmul::{Operands, Packed, PrivatePack};
use crate::backend::cpu::pool::{Phase, Ticket};
use crate::backend::cpu::{Context, TokenSet, at_least};
use crate::backend::program::{ExpertPart, Moe};
use std::ops::Range;
use teff_kernels::{PANEL_TOKENS, ROWS_MAX, Scratch as KernelScratch};

use super::route::{Group, Routes};

/// A mixture in one of its phases.
pub(super) struct Grouped<'a> {
    pub cx: &'a Context<'a>,
    pub op: &'a Moe,
    pub set: TokenSet<'a>,
    pub phase: &'a Phase<'a>,
}

/// Rows of a group's products.
struct ExpertRows<'a> {
    group: &'a Group,
    rows: Range<usize>,
    /// Weights of the group's slots, if they are factors of the input.
    weights: Vec<f32>,
    /// `A x` of the low-rank products of the parts that are multiplied, in their order.
    ranks: &'a [f32],
}

impl Grouped<'_> {
    /// Hidden activations of all slots: a ticket is a chunk of rows for a bin.
    pub fn hidden(&self, own: &mut Scratch, kernels: &mut KernelScratch) {
        let &Grouped { cx, op, set, phase } = self;
        let (n_ff, n_bins) = (op.down.weight.cols, own.routes.bins.len());
        let chunk = cx.chunk_rows(n_ff * n_bins, set.len());
        own.hidden = super::Hidden::new(n_ff, chunk, set.len());
        own.ranks_of = None;
        let (hidden, bin_units) = (own.hidden, own.routes.bin_units);
        for mut ticket in phase.tickets(n_bins * hidden.n_chunks * bin_units, bin_units) {
            let index = ticket.items().start / bin_units;
            let (bin, chunk) = (index / hidden.n_chunks, index % hidden.n_chunks);
            if parts(op).any(|part| !part.low_rank.is_empty()) && own.ranks_of != Some(bin) {
                self.input_ranks(bin, own);
            }
            let Scratch { routes, pack, y, ranks, .. } = &mut *own;
            let mut ranks = &ranks[..];
            for group in &routes.groups[routes.bins[bin].clone()] {
                let (of_group, rest) =
                    ranks.split_at(group.len() * inputs(op).map(rank).sum::<usize>());
                ranks = rest;
                let slots = &routes.slots[group.slots.clone()];
                let weights = match op.weigh_input {
                    true => slots.iter().map(|&slot| routes.weights[slot as usize]).collect(),
                    false => Vec::new(),
                };
                let rows = hidden.rows(chunk);
                let expert = ExpertRows { group, rows: rows.clone(), weights, ranks: of_group };
                let out = self.expert_hidden(&expert, pack, kernels, y);
                for (slot, out) in out.chunks_exact(rows.len()).enumerate() {
                    let cell = hidden.cell_of(routes, group.unit + slot / PANEL_TOKENS, chunk);
                    let to = cx.backend.moe.hidden.write_cell(&mut ticket, hidden.cell(), cell);
                    let first = slot % PANEL_TOKENS * hidden.chunk;
                    to[first..][..rows.len()].copy_from_slice(out);
                }
            }
        }
    }

    /// Rows of an expert's hidden activations, `[slots of the group][rows]`.
    fn expert_hidden<'y>(
        &self,
        expert: &ExpertRows<'_>,
        pack: &PrivatePack,
        kernels: &mut KernelScratch,
        y: &'y mut Vec<f32>,
    ) -> &'y [f32] {
        let &Grouped { cx, op, .. } = self;
        let (rows, n_tokens) = (expert.rows.clone(), expert.group.len());
        let n_ff = op.down.weight.cols;
        let is_fused = op.gate.is_none() && op.up.weight.rows == 2 * n_ff;
        let plans = cx.plans(inputs(op), n_tokens, self.set.len());
        let operands = self.operands(expert.group, pack, &plans);
        let n = rows.len() * n_tokens;
        let (gate, rest) = at_least(y, 3 * n).split_at_mut(n);
        let (up, out) = rest.split_at_mut(n);
        let gate_rank = op.gate.as_ref().map_or(0, rank);
        let (gate_ranks, up_ranks) = expert.ranks.split_at(n_tokens * gate_rank);
        let mut product = |part: &ExpertPart, ranks: &[f32], rows: Range<usize>, y: &mut [f32]| {
            cx.multiply(&part.weight, expert.group.expert, rows.clone(), &operands, kernels, y);
            for (y, weight) in y.chunks_exact_mut(rows.len()).zip(&expert.weights) {
                (cx.ops.scale)(y, *weight);
            }
            self.finish(part, expert.group.expert, ranks, &rows, y);
        };
        let mut up_rows = rows.clone();
        if let Some(part) = &op.gate {
            product(part, gate_ranks, rows, gate);
        } else if is_fused {
            product(&op.up, up_ranks, rows, gate);
            up_rows = up_rows.start + n_ff..up_rows.end + n_ff;
        }
        product(&op.up, up_ranks, up_rows, up);
        if let Some(clamp) = op.clamp {
            clamp.apply(gate, up);
        }
        if op.gate.is_some() || is_fused {
            (cx.ops.glu)(op.act, gate, up, out);
        } else {
            out.copy_from_slice(up);
            (cx.ops.act)(op.act, out);
        }
        out
    }

    /// Outputs of all tokens: a ticket is a chunk of rows for all experts.
    pub fn output(&self, own: &mut Scratch, kernels: &mut KernelScratch) {
        let &Grouped { cx, op, set, phase } = self;
        let down = &op.down;
        if !down.low_rank.is_empty() {
            self.output_ranks(own);
        }
        let Scratch { routes, pack, y, ranks, .. } = &mut *own;
        let chunk = cx.chunk_rows(down.weight.rows, set.len());
        for mut ticket in phase.tickets(down.weight.rows, chunk) {
            let rows = ticket.items();
            let y = at_least(y, rows.len() * routes.slots.len());
            for group in &routes.groups {
                let plans = cx.plans([down], group.len(), set.len());
                let operands = self.operands(group, pack, &plans);
                let slots = group.slots.clone();
                let y = &mut y[slots.start * rows.len()..slots.end * rows.len()];
                cx.multiply(&down.weight, group.expert, rows.clone(), &operands, kernels, y);
                let ranks = &ranks[slots.start * rank(down)..slots.end * rank(down)];
                self.finish(down, group.expert, ranks, &rows, y);
            }
            self.combine(routes, y, &mut ticket);
        }
    }

    /// Adds the outputs of the experts of each token up.
    fn combine(&self, routes: &Routes, y: &[f32], ticket: &mut Ticket<'_>) {
        let &Grouped { cx, op, set, .. } = self;
        let rows = ticket.items();
        for i in 0..set.len() {
            let out = &cx.backend.buffers[op.out.0];
            let out = out.write_columns(ticket, set.get(i), rows.clone());
            if !op.adds {
                out.fill(0.0);
            }
            for slot in i * op.n_used..(i + 1) * op.n_used {
                let y = &y[routes.places[slot] as usize * rows.len()..][..rows.len()];
                let weight = if op.weigh_input { 1.0 } else { routes.weights[slot] };
                (cx.ops.add_scaled)(out, y, weight * op.scale);
            }
        }
    }

    /// The packed input of a group.
    fn operands<'p>(
        &'p self,
        group: &Group,
        pack: &'p PrivatePack,
        plans: &'p [Option<teff_kernels::ActPlan>; crate::backend::cpu::FORMATS.len()],
    ) -> Operands<'p> {
        let (packed, first) = match self.set.len() <= ROWS_MAX {
            true => (Packed::Private(pack), group.slots.start),
            false => (Packed::Shared(&self.cx.backend.moe.packs), group.unit * PANEL_TOKENS),
        };
        self.cx.operands(packed, plans, first, self.phase)
    }

    /// A part's factor, low-rank products and biases for rows of an expert, `[slots][rows]`.
    fn finish(
        &self,
        part: &ExpertPart,
        expert: usize,
        ranks: &[f32],
        rows: &Range<usize>,
        y: &mut [f32],
    ) {
        let ops = self.cx.ops;
        if let Some(scales) = &part.scales {
            (ops.scale)(y, scales[expert]);
        }
        let ranks = ranks.chunks_exact(rank(part).max(1));
        for (y, ranks) in y.chunks_exact_mut(rows.len()).zip(ranks) {
            let mut ranks = ranks;
            for low in &part.low_rank {
                let (t, rest) = ranks.split_at(low.rank);
                let b = &low.b[(expert * part.weight.rows + rows.start) * low.rank..];
                for (y, b) in y.iter_mut().zip(b.chunks_exact(low.rank)) {
                    *y += (ops.dot)(b, t);
                }
                ranks = rest;
            }
        }
        if let Some(biases) = &part.biases {
            let biases = &biases[expert * part.weight.rows..][rows.clone()];
            y.chunks_exact_mut(rows.len()).for_each(|y| (ops.add)(y, biases));
        }
    }

    /// `A x` of the low-rank products of a bin's gate and up projections.
    fn input_ranks(&self, bin: usize, own: &mut Scratch) {
        let &Grouped { cx, op, set, phase } = self;
        let Scratch { routes, x, ranks, ranks_of, .. } = own;
        ranks.clear();
        *ranks_of = Some(bin);
        let cols = op.up.weight.cols;
        for group in &routes.groups[routes.bins[bin].clone()] {
            for part in inputs(op) {
                for &slot in &routes.slots[group.slots.clone()] {
                    let token = routes.token(slot);
                    let x = match set.len() <= ROWS_MAX {
                        true => &x[token * cols..][..cols],
                        false => &cx.backend.moe.x.read_row(phase, token)[..cols],
                    };
                    let weight = op.weigh_input.then(|| routes.weights[slot as usize]);
                    self.add_ranks(part, group.expert, x, weight.unwrap_or(1.0), ranks);
                }
            }
        }
    }

    /// `A x` of the low-rank products of all down projections.
    fn output_ranks(&self, own: &mut Scratch) {
        let &Grouped { cx, op, phase, .. } = self;
        let Scratch { routes, hidden, rows, ranks, ranks_of, .. } = own;
        ranks.clear();
        *ranks_of = None;
        let all = cx.backend.moe.hidden.read(phase);
        let row = at_least(rows, hidden.n_ff);
        for group in &routes.groups {
            for slot in 0..group.len() {
                hidden.copy(routes, group, slot, all, row);
                self.add_ranks(&op.down, group.expert, row, 1.0, ranks);
            }
        }
    }

    /// Appends `weight * A x` of a part's low-rank products.
    fn add_ranks(
        &self,
        part: &ExpertPart,
        expert: usize,
        x: &[f32],
        weight: f32,
        ranks: &mut Vec<f32>,
    ) {
        for low in &part.low_rank {
            let a = &low.a[expert * low.rank * x.len()..][..low.rank * x.len()];
            ranks.extend(a.chunks_exact(x.len()).map(|a| (self.cx.ops.dot)(a, x) * weight));
        }
    }
}

/// Rows of the `A` of a part's low-rank products together.
fn rank(part: &ExpertPart) -> usize {
    part.low_rank.iter().map(|low| low.rank).sum()
}
