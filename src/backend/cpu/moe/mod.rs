//! Mixtures of experts: route, group the tokens by expert, multiply, and sum.
//!
//! All experts of a step are one grouped product. Its first phase computes the hidden activations:
//! a ticket is a run of rows for the experts of a bin, see [`route`]. Its second phase computes the
//! output: a ticket is a run of rows for all experts, and sums them. For a handful of tokens every
//! worker chooses the experts and packs the inputs for itself: with the router's product a mixture
//! has three phases then. For more tokens the workers share that work in phases of their own.
//!
//! **The result is defined as** the chain of `out += weight * y` over the experts of a token in the
//! order of their rank, whatever the batch.

mod observe;
mod product;
mod route;

use super::matmul::{PrivatePack, Source, chunk_limits};
use super::pool::{Phase, Shared};
use super::{Context, FORMATS, PackBuffers, TokenSet, WorkerScratch, at_least, format_index};
use crate::backend::program::{ExpertPart, Moe, Op, Program, Router};
use crate::tensor::memory::OutOfMemory;
use product::Grouped;
use route::{Group, Routes, units_max};
use std::ops::Range;
use teff_kernels::{ActPlan, KernelTable, PANEL_TOKENS, ROWS_MAX};

/// Memory that the phases of a mixture hand on to one another, for the largest of the program.
pub(super) struct Buffers {
    /// Normalized input, `[tokens][cols]`.
    x: Shared<f32>,
    /// The router's scores, `[tokens][n_experts]`.
    scores: Shared<f32>,
    /// Chosen experts and their weights, `[tokens][n_used]`.
    experts: Shared<u32>,
    weights: Shared<f32>,
    /// Hidden activations, see [`Hidden`].
    hidden: Shared<f32>,
    /// Inputs of many tokens' products by unit: the normalized input, then the hidden activations.
    packs: [PackBuffers; FORMATS.len()],
}

impl Buffers {
    /// Buffers for steps of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// The system has no memory for them.
    pub(super) fn new(
        kernels: &KernelTable,
        program: &Program,
        max_tokens: usize,
    ) -> Result<Buffers, OutOfMemory> {
        let moes = || {
            program.ops.iter().filter_map(|op| match op {
                Op::Moe(moe) => Some(&**moe),
                _ => None,
            })
        };
        let most = |f: &dyn Fn(&Moe) -> usize| moes().map(f).max().unwrap_or(0);
        let units = |moe: &Moe| units_max(max_tokens, moe.n_used, moe.n_experts);
        let pack_lens = FORMATS.map(|format| {
            let mut lens = [0; 4];
            for moe in moes() {
                for weight in parts(moe).map(|part| &part.weight) {
                    let of_type = kernels.types(weight.ty);
                    if of_type.is_some_and(|kernels| kernels.act == format) {
                        let plan = kernels.plan(format, weight.cols, 1);
                        let row = [plan.q_len(), plan.d_len(), plan.s_len(), plan.x_len()];
                        for (len, row) in lens.iter_mut().zip(row) {
                            *len = (*len).max(units(moe) * PANEL_TOKENS * row);
                        }
                    }
                }
            }
            lens
        });
        let hidden = |moe: &Moe| {
            let few = max_tokens.min(ROWS_MAX);
            let few_units = units_max(few, moe.n_used, moe.n_experts);
            let n_ff = moe.down.weight.cols;
            let few = few_units * Hidden::padded_max(n_ff, few);
            PANEL_TOKENS * few.max(units(moe) * Hidden::padded_max(n_ff, max_tokens))
        };
        Ok(Buffers {
            x: Shared::new("inputs of experts", max_tokens, most(&|moe| moe.up.weight.cols))?,
            scores: Shared::new("scores of experts", max_tokens, most(&|moe| moe.n_experts))?,
            experts: Shared::new("choices of experts", max_tokens, most(&|moe| moe.n_used))?,
            weights: Shared::new("weights of experts", max_tokens, most(&|moe| moe.n_used))?,
            hidden: Shared::new("activations of experts", 1, most(&hidden))?,
            packs: PackBuffers::of_formats("packed inputs of experts", pack_lens)?,
        })
    }
}

/// The stacks of a mixture.
fn parts(op: &Moe) -> impl Iterator<Item = &ExpertPart> {
    op.gate.iter().chain([&op.up, &op.down])
}

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    routes: Routes,
    hidden: Hidden,
    /// Normalized input of a few tokens, `[tokens][cols]`.
    x: Vec<f32>,
    /// Rows that are packed next.
    rows: Vec<f32>,
    /// Inputs of a few tokens' products by slot.
    pack: PrivatePack,
    /// Products before they are stored.
    y: Vec<f32>,
    /// `A x` of the low-rank products of some groups, in their order.
    ranks: Vec<f32>,
    /// Bin that they are of.
    ranks_of: Option<usize>,
}

/// The layout of the hidden activations: `[bins][chunks][units of a bin][8 slots][rows of a chunk]`,
/// so that a ticket's part is one stretch.
#[derive(Clone, Copy, Default)]
struct Hidden {
    n_ff: usize,
    n_chunks: usize,
    /// Rows of a chunk; the last one may have fewer.
    chunk: usize,
}

impl Hidden {
    /// Chunks of about `chunk` rows, multiples of what chunks for `n_tokens` tokens are.
    fn new(n_ff: usize, chunk: usize, n_tokens: usize) -> Hidden {
        let n_chunks = n_ff.div_ceil(chunk);
        let chunk = n_ff.div_ceil(n_chunks).next_multiple_of(chunk_limits(n_tokens).0);
        Hidden { n_ff, n_chunks: n_ff.div_ceil(chunk), chunk }
    }

    /// Most elements of a slot, those included that the last chunk does not have.
    fn padded_max(n_ff: usize, n_tokens: usize) -> usize {
        n_ff + chunk_limits(n_tokens).1
    }

    /// Rows of chunk `chunk`.
    fn rows(&self, chunk: usize) -> Range<usize> {
        let first = chunk * self.chunk;
        first..self.n_ff.min(first + self.chunk)
    }

    /// Elements of a unit in a chunk.
    fn cell(&self) -> usize {
        PANEL_TOKENS * self.chunk
    }

    /// Number of the cell of unit `unit` in a chunk.
    fn cell_of(&self, routes: &Routes, unit: usize, chunk: usize) -> usize {
        let (bin, unit) = (unit / routes.bin_units, unit % routes.bin_units);
        (bin * self.n_chunks + chunk) * routes.bin_units + unit
    }

    /// Copies a slot of a group, counted within the group, to `out`.
    fn copy(&self, routes: &Routes, group: &Group, slot: usize, all: &[f32], out: &mut [f32]) {
        let unit = group.unit + slot / PANEL_TOKENS;
        for chunk in 0..self.n_chunks {
            let first = self.cell_of(routes, unit, chunk) * self.cell();
            let rows = self.rows(chunk);
            let from = &all[first + slot % PANEL_TOKENS * self.chunk..][..rows.len()];
            out[rows].copy_from_slice(from);
        }
    }
}

impl Context<'_> {
    pub(super) fn moe(&self, op: &Moe, scratch: &mut WorkerScratch) {
        let set = self.set(op.rows);
        if set.len() == 0 {
            return;
        }
        let mut own = std::mem::take(&mut scratch.moe);
        match set.len() <= ROWS_MAX {
            true => self.moe_of_few(op, set, &mut own, scratch),
            false => self.moe_of_many(op, set, &mut own, scratch),
        }
        scratch.moe = own;
    }

    /// Every worker chooses the experts and packs the inputs for itself.
    fn moe_of_few(
        &self,
        op: &Moe,
        set: TokenSet<'_>,
        own: &mut Scratch,
        scratch: &mut WorkerScratch,
    ) {
        let buffer = &self.backend.buffers[op.input.0];
        let source = Source { buffer, norm: op.norm.as_ref(), set };
        self.score(op, source, scratch);
        let kernels = &mut scratch.kernels;
        self.worker.phase(|phase| {
            own.routes.clear(op.n_used);
            for i in 0..set.len() {
                own.routes.choose(op, self.scores(op, set, i, phase), self.ops);
            }
            own.routes.group(op.n_experts);
            let cols = op.up.weight.cols;
            self.read_rows(source, 0..set.len(), cols, phase, &mut own.x);
            let Scratch { routes, x, rows, pack, .. } = &mut *own;
            let rows = at_least(rows, routes.slots.len() * cols);
            for (&slot, row) in routes.slots.iter().zip(rows.chunks_exact_mut(cols)) {
                row.copy_from_slice(&x[routes.token(slot) * cols..][..cols]);
            }
            for plan in self.plans(inputs(op), 1, set.len()).iter().flatten() {
                pack.fill_each(self.backend.kernels, plan, rows);
            }
            Grouped { cx: self, op, set, phase }.hidden(own, kernels);
        });
        self.show_experts(op, set, own);
        self.worker.phase(|phase| {
            let all = self.backend.moe.hidden.read(phase);
            let Scratch { routes, hidden, rows, pack, .. } = &mut *own;
            let rows = at_least(rows, routes.slots.len() * hidden.n_ff);
            for group in &routes.groups {
                let rows = rows[group.slots.start * hidden.n_ff..].chunks_exact_mut(hidden.n_ff);
                for (slot, row) in (0..group.len()).zip(rows) {
                    hidden.copy(routes, group, slot, all, row);
                }
            }
            for plan in self.plans([&op.down], 1, set.len()).iter().flatten() {
                pack.fill_each(self.backend.kernels, plan, rows);
            }
            Grouped { cx: self, op, set, phase }.output(own, kernels);
        });
    }

    /// The workers share what each does for itself when there are only a few tokens.
    fn moe_of_many(
        &self,
        op: &Moe,
        set: TokenSet<'_>,
        own: &mut Scratch,
        scratch: &mut WorkerScratch,
    ) {
        let buffers = &self.backend.moe;
        self.normalize_input(op, set);
        let all = TokenSet { outputs: None, n_tokens: set.len() };
        self.score(op, Source { buffer: &buffers.x, norm: None, set: all }, scratch);
        self.choose(op, set, &mut own.routes);
        let kernels = &mut scratch.kernels;
        self.worker.phase(|phase| {
            own.routes.clear(op.n_used);
            for i in 0..set.len() {
                let experts = buffers.experts.read_row(phase, i);
                let weights = buffers.weights.read_row(phase, i);
                own.routes.add(&experts[..op.n_used], &weights[..op.n_used]);
            }
            own.routes.group(op.n_experts);
            let Scratch { routes, rows, .. } = &mut *own;
            self.pack_units(inputs(op), (routes, set.len()), rows, phase, |group, slot, row| {
                let token = routes.token(routes.slots[group.slots.start + slot]);
                row.copy_from_slice(&buffers.x.read_row(phase, token)[..row.len()]);
            });
        });
        self.worker.phase(|phase| Grouped { cx: self, op, set, phase }.hidden(own, kernels));
        self.show_experts(op, set, own);
        self.worker.phase(|phase| {
            let all = buffers.hidden.read(phase);
            let Scratch { routes, hidden, rows, .. } = &mut *own;
            self.pack_units([&op.down], (routes, set.len()), rows, phase, |group, slot, row| {
                hidden.copy(routes, group, slot, all, row);
            });
        });
        self.worker.phase(|phase| Grouped { cx: self, op, set, phase }.output(own, kernels));
    }

    fn normalize_input(&self, op: &Moe, set: TokenSet<'_>) {
        let input = &self.backend.buffers[op.input.0];
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.len(), 1) {
                let x = input.read_row(phase, set.get(ticket.items().start));
                let buffer = &self.backend.moe.x;
                let out = &mut buffer.write_cells(&mut ticket, buffer.width())[..x.len()];
                match &op.norm {
                    Some(norm) => self.normalize(norm, x, out),
                    None => out.copy_from_slice(x),
                }
            }
        });
    }

    /// The router's scores, unless they are in a buffer already.
    fn score(&self, op: &Moe, source: Source<'_>, scratch: &mut WorkerScratch) {
        let Router::Input(part) = &op.router else { return };
        let n_tokens = source.set.len();
        let weights = std::iter::once(&part.weight);
        self.products(source, weights, op.n_experts, scratch, |operands, ticket, kernels, y| {
            let rows = ticket.items();
            let y = at_least(y, rows.len() * n_tokens);
            self.product(part, rows.clone(), operands, kernels, y);
            for (i, y) in y.chunks_exact(rows.len()).enumerate() {
                let scores = &self.backend.moe.scores;
                scores.write_columns(ticket, i, rows.clone()).copy_from_slice(y);
            }
        });
    }

    /// The scores of token `i` of the set.
    fn scores<'p>(
        &'p self,
        op: &Moe,
        set: TokenSet<'_>,
        i: usize,
        phase: &'p Phase<'_>,
    ) -> &'p [f32] {
        let row = match &op.router {
            Router::Scores(buf) => self.backend.buffers[buf.0].read_row(phase, set.get(i)),
            Router::Input(_) => self.backend.moe.scores.read_row(phase, i),
        };
        &row[..op.n_experts]
    }

    /// The chosen experts and their weights: a phase.
    fn choose(&self, op: &Moe, set: TokenSet<'_>, routes: &mut Routes) {
        let Buffers { experts, weights, .. } = &self.backend.moe;
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.len(), 1) {
                routes.clear(op.n_used);
                let scores = self.scores(op, set, ticket.items().start, phase);
                routes.choose(op, scores, self.ops);
                let to = experts.write_cells(&mut ticket, experts.width());
                to[..op.n_used].copy_from_slice(&routes.experts);
                let to = weights.write_cells(&mut ticket, weights.width());
                to[..op.n_used].copy_from_slice(&routes.weights);
            }
        });
    }

    /// The layouts of `n_tokens` inputs of a step of `n_set` tokens, for each of [`FORMATS`] that the
    /// weights of parts want. In a step of a few tokens they are rows, since workers pack each token
    /// by itself.
    fn plans<'p>(
        &self,
        parts: impl IntoIterator<Item = &'p ExpertPart> + Clone,
        n_tokens: usize,
        n_set: usize,
    ) -> [Option<ActPlan>; FORMATS.len()] {
        FORMATS.map(|format| {
            let weights = parts.clone().into_iter().map(|part| &part.weight);
            let mut wanted = weights.filter(|w| self.type_kernels(w).act == format).peekable();
            let cols = wanted.peek()?.cols;
            Some(match n_set <= ROWS_MAX {
                true => self.backend.kernels.plan(format, cols, n_tokens),
                false => self.plan(wanted, format, cols, n_tokens),
            })
        })
    }

    /// Packs the inputs of parts, a unit for a ticket. `copy` gives the input of a slot, counted
    /// within its group.
    fn pack_units<'p>(
        &self,
        parts: impl IntoIterator<Item = &'p ExpertPart> + Clone,
        (routes, n_set): (&Routes, usize),
        rows: &mut Vec<f32>,
        phase: &Phase<'_>,
        copy: impl Fn(&Group, usize, &mut [f32]),
    ) {
        for mut ticket in phase.tickets(routes.n_units(), 1) {
            let Some((group, slots)) = routes.unit(ticket.items().start) else { continue };
            for plan in self.plans(parts.clone(), group.len(), n_set).iter().flatten() {
                let rows = at_least(rows, slots.len() * plan.cols);
                for (slot, row) in slots.clone().zip(rows.chunks_exact_mut(plan.cols)) {
                    copy(group, slot, row);
                }
                let packs = &self.backend.moe.packs[format_index(plan.format)];
                packs.fill(self.backend.kernels, plan, slots.clone(), rows, &mut ticket);
            }
        }
    }
}

/// The parts that read the input.
fn inputs(op: &Moe) -> impl Iterator<Item = &ExpertPart> + Clone {
    op.gate.iter().chain([&op.up])
}
