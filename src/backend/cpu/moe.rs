//! Mixtures of experts: route, group the tokens by expert, multiply, and sum.
//!
//! Every expert's products are a phase for its gate and up projections and one for its down
//! projection. A token's experts are summed in the order of their rank, whatever the batch.

use super::matmul::Source;
use super::pool::Shared;
use super::{Context, TokenSet, WorkerScratch, at_least};
use crate::backend::program::{ExpertGroups, ExpertPart, Gating, Moe, Op, Program, Router};
use std::ops::Range;
use teff_kernels::{Activation, FloatOps};

/// Smallest sum that weights are divided by, as in ggml: the least normal half.
const WEIGHT_SUM_MIN: f32 = 6.103_515_6e-5;

/// What the phases of a mixture hand on to one another, for the largest of the program.
pub(super) struct Buffers {
    /// Normalized input, `[tokens][cols]`.
    x: Shared<f32>,
    /// The router's scores, `[tokens][n_experts]`.
    scores: Shared<f32>,
    /// Chosen experts and their weights, `[tokens][n_used]`.
    experts: Shared<u32>,
    weights: Shared<f32>,
    /// Hidden activations and outputs, a row for each token and rank.
    hidden: Shared<f32>,
    y: Shared<f32>,
}

impl Buffers {
    pub(super) fn new(program: &Program, max_tokens: usize) -> Buffers {
        let moes = || {
            program.ops.iter().filter_map(|op| match op {
                Op::Moe(moe) => Some(&**moe),
                _ => None,
            })
        };
        let most = |f: fn(&Moe) -> usize| moes().map(f).max().unwrap_or(0);
        let slots = max_tokens * most(|moe| moe.n_used);
        Buffers {
            x: Shared::new(max_tokens, most(|moe| moe.up.weight.cols)),
            scores: Shared::new(max_tokens, most(|moe| moe.n_experts)),
            experts: Shared::new(max_tokens, most(|moe| moe.n_used)),
            weights: Shared::new(max_tokens, most(|moe| moe.n_used)),
            hidden: Shared::new(slots, most(|moe| moe.down.weight.cols)),
            y: Shared::new(slots, most(|moe| moe.down.weight.rows)),
        }
    }
}

/// The step's tokens by expert, as each worker works them out for itself.
#[derive(Default)]
pub(super) struct Routes {
    /// `(expert, token, slot)`, sorted.
    by_expert: Vec<(u32, u32, u32)>,
    tokens: Vec<u32>,
    slots: Vec<u32>,
    /// `(score, expert)` of one token.
    ranked: Vec<(f32, u32)>,
    /// The softmax of one token's scores.
    probabilities: Vec<f32>,
}

impl Context<'_> {
    pub(super) fn moe(&self, op: &Moe, scratch: &mut WorkerScratch) {
        let set = self.set(op.rows);
        if set.len() == 0 {
            return;
        }
        self.normalize_input(op, set);
        self.route(op, set, scratch);
        let mut routes = std::mem::take(&mut scratch.routes);
        self.group(op, set, &mut routes);
        for group in routes.by_expert.chunk_by(|a, b| a.0 == b.0) {
            let expert = group[0].0 as usize;
            routes.tokens.clear();
            routes.tokens.extend(group.iter().map(|&(_, token, _)| token));
            routes.slots.clear();
            routes.slots.extend(group.iter().map(|&(.., slot)| slot));
            self.expert(op, expert, &routes.tokens, &routes.slots, scratch);
        }
        scratch.routes = routes;
        self.combine(op, set);
    }

    fn normalize_input(&self, op: &Moe, set: TokenSet<'_>) {
        let input = &self.backend.buffers[op.input.0];
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.n_tokens, 1) {
                let token = ticket.items().start;
                if set.contains(token) {
                    let x = input.read_row(phase, token);
                    let buffer = &self.backend.moe.x;
                    let out = &mut buffer.write_cells(&mut ticket, buffer.width())[..x.len()];
                    match &op.norm {
                        Some(norm) => self.normalize(norm, x, out),
                        None => out.copy_from_slice(x),
                    }
                }
            }
        });
    }

    fn route(&self, op: &Moe, set: TokenSet<'_>, scratch: &mut WorkerScratch) {
        let buffers = &self.backend.moe;
        let n_experts = op.n_experts;
        let scores = match &op.router {
            Router::Scores(buf) => &self.backend.buffers[buf.0],
            Router::Input(part) => {
                let source = Source { buffer: &buffers.x, norm: None, set };
                let weights = std::iter::once(&part.weight);
                self.products(
                    source,
                    weights,
                    n_experts,
                    scratch,
                    |operands, ticket, kernels, y| {
                        let rows = ticket.items();
                        y.resize(rows.len() * set.len(), 0.0);
                        self.product(part, rows.clone(), operands, kernels, y);
                        for (i, y) in y.chunks_exact(rows.len()).enumerate() {
                            let scores = &buffers.scores;
                            let scores = scores.write_columns(ticket, set.get(i), rows.clone());
                            scores.copy_from_slice(y);
                        }
                    },
                );
                &buffers.scores
            }
        };
        let Routes { ranked, probabilities, .. } = &mut scratch.routes;
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.n_tokens, 1) {
                let token = ticket.items().start;
                if !set.contains(token) {
                    continue;
                }
                let scores = &scores.read_row(phase, token)[..n_experts];
                rank(op, scores, probabilities, ranked, self.ops);
                let experts = buffers.experts.write_cells(&mut ticket, buffers.experts.width());
                for (expert, &(_, index)) in experts.iter_mut().zip(ranked.iter()) {
                    *expert = index;
                }
                let weights = buffers.weights.write_cells(&mut ticket, buffers.weights.width());
                for (weight, &(score, _)) in weights.iter_mut().zip(ranked.iter()) {
                    *weight = score;
                }
            }
        });
    }

    fn group(&self, op: &Moe, set: TokenSet<'_>, routes: &mut Routes) {
        let experts = &self.backend.moe.experts;
        routes.by_expert.clear();
        self.worker.phase(|phase| {
            for i in 0..set.len() {
                let token = set.get(i);
                for (rank, &expert) in
                    experts.read_row(phase, token)[..op.n_used].iter().enumerate()
                {
                    let slot = (token * op.n_used + rank) as u32;
                    routes.by_expert.push((expert, token as u32, slot));
                }
            }
        });
        routes.by_expert.sort_unstable();
    }

    /// One expert's output for its tokens.
    fn expert(
        &self,
        op: &Moe,
        expert: usize,
        tokens: &[u32],
        slots: &[u32],
        scratch: &mut WorkerScratch,
    ) {
        let buffers = &self.backend.moe;
        // A product in `y`, the rows `rows` of a part.
        let finish = |part: &ExpertPart, ranks: &[f32], rows: &Range<usize>, y: &mut [f32]| {
            if let Some(scales) = &part.scales {
                (self.ops.scale)(y, scales[expert]);
            }
            self.add_low_rank(part, expert, ranks, rows, y);
            if let Some(biases) = &part.biases {
                let biases = &biases[expert * part.weight.rows..][rows.clone()];
                y.chunks_exact_mut(rows.len()).for_each(|y| (self.ops.add)(y, biases));
            }
        };
        let list = |rows| TokenSet { outputs: Some(rows), n_tokens: self.input.tokens.len() };
        let (up, down) = (&op.up.weight, &op.down.weight);
        let gate = op.gate.as_ref().map(|gate| &gate.weight);
        let n_ff = down.cols;
        let is_fused = gate.is_none() && up.rows == 2 * n_ff;
        let weights = op.weigh_input.then(|| self.weights_of(op, tokens, slots));
        let ranks = |part: &ExpertPart| {
            self.low_ranks(part, expert, (&buffers.x, tokens), weights.as_deref())
        };
        let up_ranks = ranks(&op.up);
        let gate_ranks = op.gate.as_ref().map_or(Vec::new(), ranks);
        let source = Source { buffer: &buffers.x, norm: None, set: list(tokens) };
        self.products(
            source,
            gate.into_iter().chain([up]),
            n_ff,
            scratch,
            |operands, ticket, kernels, y| {
                let rows = ticket.items();
                let n = rows.len() * tokens.len();
                let (y_gate, rest) = at_least(y, 3 * n).split_at_mut(n);
                let (y_up, out) = rest.split_at_mut(n);
                let mut product =
                    |part: &ExpertPart, ranks: &[f32], rows: Range<usize>, y: &mut [f32]| {
                        self.multiply(&part.weight, expert, rows.clone(), operands, kernels, y);
                        for (y, weight) in
                            y.chunks_exact_mut(rows.len()).zip(weights.iter().flatten())
                        {
                            (self.ops.scale)(y, *weight);
                        }
                        finish(part, ranks, &rows, y);
                    };
                let gate_part = op.gate.as_ref().or(is_fused.then_some(&op.up));
                if let Some(part) = gate_part {
                    let ranks = if is_fused { &up_ranks } else { &gate_ranks };
                    product(part, ranks, rows.clone(), y_gate);
                }
                let up_rows = match is_fused {
                    true => rows.start + n_ff..rows.end + n_ff,
                    false => rows.clone(),
                };
                product(&op.up, &up_ranks, up_rows, y_up);
                if let Some(clamp) = op.clamp {
                    clamp.apply(y_gate, y_up);
                }
                if gate_part.is_some() {
                    (self.ops.glu)(op.act, y_gate, y_up, out);
                } else {
                    out.copy_from_slice(y_up);
                    (self.ops.act)(op.act, out);
                }
                for (&slot, y) in slots.iter().zip(out.chunks_exact(rows.len())) {
                    let hidden = buffers.hidden.write_columns(ticket, slot as usize, rows.clone());
                    hidden.copy_from_slice(y);
                }
            },
        );
        let down_ranks = self.low_ranks(&op.down, expert, (&buffers.hidden, slots), None);
        let source = Source { buffer: &buffers.hidden, norm: None, set: list(slots) };
        self.products(
            source,
            std::iter::once(down),
            down.rows,
            scratch,
            |operands, ticket, kernels, y| {
                let rows = ticket.items();
                let y = at_least(y, rows.len() * slots.len());
                self.multiply(down, expert, rows.clone(), operands, kernels, y);
                finish(&op.down, &down_ranks, &rows, y);
                for (&slot, y) in slots.iter().zip(y.chunks_exact(rows.len())) {
                    buffers.y.write_columns(ticket, slot as usize, rows.clone()).copy_from_slice(y);
                }
            },
        );
    }

    /// `A x` of an expert's low-rank products for some rows of a buffer: `[products][rows][rank]`,
    /// times the weights of the rows if there are any. Every worker computes all of them.
    fn low_ranks(
        &self,
        part: &ExpertPart,
        expert: usize,
        (buffer, rows): (&Shared<f32>, &[u32]),
        weights: Option<&[f32]>,
    ) -> Vec<f32> {
        let mut ranks = Vec::new();
        if part.low_rank.is_empty() {
            return ranks;
        }
        let cols = part.weight.cols;
        self.worker.phase(|phase| {
            for low in &part.low_rank {
                let a = &low.a[expert * low.rank * cols..][..low.rank * cols];
                for (i, &row) in rows.iter().enumerate() {
                    let x = &buffer.read_row(phase, row as usize)[..cols];
                    let weight = weights.map_or(1.0, |weights| weights[i]);
                    ranks.extend(a.chunks_exact(cols).map(|a| (self.ops.dot)(a, x) * weight));
                }
            }
        });
        ranks
    }

    /// `y += B A x`, the rows `rows` of a part, by what [`Context::low_ranks`] gave.
    fn add_low_rank(
        &self,
        part: &ExpertPart,
        expert: usize,
        mut ranks: &[f32],
        rows: &Range<usize>,
        y: &mut [f32],
    ) {
        let n = y.len() / rows.len();
        for low in &part.low_rank {
            let (of_this, rest) = ranks.split_at(n * low.rank);
            let b = &low.b[(expert * part.weight.rows + rows.start) * low.rank..];
            for (y, t) in y.chunks_exact_mut(rows.len()).zip(of_this.chunks_exact(low.rank)) {
                for (y, b) in y.iter_mut().zip(b.chunks_exact(low.rank)) {
                    *y += (self.ops.dot)(b, t);
                }
            }
            ranks = rest;
        }
    }

    /// The weights of an expert for some tokens and the slots that they have.
    fn weights_of(&self, op: &Moe, tokens: &[u32], slots: &[u32]) -> Vec<f32> {
        let mut weights = Vec::with_capacity(slots.len());
        self.worker.phase(|phase| {
            for (&token, &slot) in tokens.iter().zip(slots) {
                let of_token = self.backend.moe.weights.read_row(phase, token as usize);
                weights.push(of_token[slot as usize % op.n_used]);
            }
        });
        weights
    }

    fn combine(&self, op: &Moe, set: TokenSet<'_>) {
        let buffers = &self.backend.moe;
        let out = &self.backend.buffers[op.out.0];
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.n_tokens, 1) {
                let token = ticket.items().start;
                if !set.contains(token) {
                    continue;
                }
                let out = out.write_cells(&mut ticket, out.width());
                if !op.adds {
                    out.fill(0.0);
                }
                let weights = &buffers.weights.read_row(phase, token)[..op.n_used];
                for (rank, weight) in weights.iter().enumerate() {
                    let y = &buffers.y.read_row(phase, token * op.n_used + rank)[..out.len()];
                    let weight = if op.weigh_input { 1.0 } else { *weight };
                    (self.ops.add_scaled)(out, y, weight * op.scale);
                }
            }
        });
    }
}

/// Leaves the chosen experts with their weights in `ranked`, the highest score first; equal scores
/// go by the expert's number.
fn rank(
    op: &Moe,
    scores: &[f32],
    probabilities: &mut Vec<f32>,
    ranked: &mut Vec<(f32, u32)>,
    ops: &FloatOps,
) {
    probabilities.clear();
    probabilities.extend_from_slice(scores);
    match op.gating {
        Gating::Softmax => (ops.softmax)(probabilities),
        Gating::Sigmoid => (ops.act)(Activation::Sigmoid, probabilities),
        Gating::SoftmaxOfChosen => {}
    }
    ranked.clear();
    ranked.extend(probabilities.iter().zip(0..).map(|(&p, i)| (p, i)));
    if let Some(bias) = &op.choice_bias {
        ranked.iter_mut().zip(bias).for_each(|((p, _), bias)| *p += bias);
    }
    if let Some(groups) = op.groups {
        keep_groups(groups, ranked);
    }
    sort(ranked);
    ranked.truncate(op.n_used);
    ranked.iter_mut().for_each(|(p, i)| *p = probabilities[*i as usize]);
    if op.gating == Gating::SoftmaxOfChosen {
        probabilities.clear();
        probabilities.extend(ranked.iter().map(|r| r.0));
        (ops.softmax)(probabilities);
        ranked.iter_mut().zip(&*probabilities).for_each(|((p, _), &chosen)| *p = chosen);
    }
    let sum = match op.normalize_weights {
        false => 1.0,
        true => ranked.iter().map(|r| r.0).sum::<f32>().max(WEIGHT_SUM_MIN),
    };
    for (weight, _) in ranked {
        *weight *= op.weight_scale / sum;
    }
}

/// The highest score first; equal scores go by number.
fn sort(ranked: &mut [(f32, u32)]) {
    ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
}

/// Leaves only the experts of the best groups.
fn keep_groups(groups: ExpertGroups, ranked: &mut Vec<(f32, u32)>) {
    let size = ranked.len() / groups.n_groups;
    let score = |group: &[(f32, u32)]| {
        let mut group = group.to_vec();
        sort(&mut group);
        group.iter().take(2).map(|r| r.0).sum::<f32>()
    };
    let mut best: Vec<(f32, u32)> = ranked.chunks_exact(size).map(score).zip(0..).collect();
    sort(&mut best);
    best.truncate(groups.n_used);
    ranked.retain(|&(_, i)| best.iter().any(|&(_, group)| i / size as u32 == group));
}
