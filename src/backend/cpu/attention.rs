//! Rotation and attention over the pages of the KV cache.
//!
//! One work item is a token and a key/value head with all its query heads. Its pages are visited
//! in order with a running maximum (online softmax, arXiv:1805.02867), so a query's result does
//! not depend on what else is in the batch.

use super::{Context, WorkerScratch};
use crate::backend::pages::{PAGE_TOKENS, PageId, PageView};
use crate::backend::program::{Attention, Norm, RopeKv};

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    /// Keys and values of a token, or the queries of a group.
    row: Vec<f32>,
    /// `[queries][PAGE_TOKENS]`
    scores: Vec<f32>,
    /// Per query: the largest score so far and the sum of the exponentials relative to it.
    max: Vec<f32>,
    total: Vec<f32>,
    head: Vec<f32>,
}

impl Context<'_> {
    fn page(&self, layer: usize, token: usize, page: usize) -> PageId {
        let table = &self.input.tables[self.input.sequence[token] as usize][layer];
        table[page].expect("the cache keeps what the window shows")
    }

    pub(super) fn rope_kv(&self, op: &RopeKv, scratch: &mut WorkerScratch) {
        let qkv = &self.backend.buffers[op.qkv.0];
        let shape = &self.backend.program.kv[op.layer];
        let (q_len, k_len) = (op.n_heads * shape.k_dim, shape.n_kv_heads * shape.k_dim);
        let Scratch { row: kv, head, .. } = &mut scratch.attention;
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(self.input.tokens.len(), 1) {
                let token = ticket.items().start;
                let row = qkv.write_cells(&mut ticket, qkv.width());
                let (q, k) = row[..q_len + k_len].split_at_mut(q_len);
                self.norm_heads(op.q_norm.as_ref(), shape.k_dim, q, head);
                self.norm_heads(op.k_norm.as_ref(), shape.k_dim, k, head);
                if let Some((rope, pairing)) = op.rope {
                    let table = self.backend.ropes[rope.0].read_row(phase, token);
                    let (cos, sin) = table.split_at(table.len() / 2);
                    for head in row[..q_len + k_len].chunks_exact_mut(shape.k_dim) {
                        (self.ops.rope)(head, cos, sin, pairing);
                    }
                }
                kv.clear();
                kv.extend_from_slice(&row[q_len..]);
                let (keys, values) = kv.split_at(k_len);
                let page = self.input.positions[token] as usize / PAGE_TOKENS;
                let page = self.page(op.layer, token, page);
                let heads = keys.chunks_exact(shape.k_dim).zip(values.chunks_exact(shape.v_dim));
                for (head, key_value) in heads.enumerate() {
                    self.arena.write(page, &mut ticket, (token, head), key_value, self.ops);
                }
            }
        });
    }

    fn norm_heads(&self, norm: Option<&Norm>, dim: usize, x: &mut [f32], head: &mut Vec<f32>) {
        let Some(norm) = norm else { return };
        head.resize(dim, 0.0);
        for x in x.chunks_exact_mut(dim) {
            self.normalize(norm, x, head);
            x.copy_from_slice(head);
        }
    }

    pub(super) fn attention(&self, op: &Attention, scratch: &mut WorkerScratch) {
        let shape = &self.backend.program.kv[op.layer];
        let set = self.set(op.rows);
        let (qkv, out) = (&self.backend.buffers[op.qkv.0], &self.backend.buffers[op.out.0]);
        // Few tokens: every query head is an item of its own, to occupy more threads.
        let group = op.n_heads / shape.n_kv_heads;
        let few = set.n_tokens * shape.n_kv_heads < 4 * self.worker.n_threads();
        let heads = if few { 1 } else { group };
        let per_token = op.n_heads / heads;
        let scratch = &mut scratch.attention;
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.n_tokens * per_token, 1) {
                let (token, item) =
                    (ticket.items().start / per_token, ticket.items().start % per_token);
                if !set.contains(token) {
                    continue;
                }
                let first = item * heads;
                let q = &qkv.read_row(phase, token)[first * shape.k_dim..][..heads * shape.k_dim];
                let kv_head = first / group;
                let sums = out.write_cells(&mut ticket, heads * shape.v_dim);
                sums.fill(0.0);
                scratch.max.clear();
                scratch.max.resize(heads, f32::NEG_INFINITY);
                scratch.total.clear();
                scratch.total.resize(heads, 0.0);
                let end = self.input.positions[token] as usize + 1;
                let start = shape.window.map_or(0, |window| end.saturating_sub(window));
                for page in start / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS) {
                    let base = page * PAGE_TOKENS;
                    let keys = start.max(base) - base..end.min(base + PAGE_TOKENS) - base;
                    let view = self.arena.read(self.page(op.layer, token, page), phase);
                    self.visit(op, view, kv_head, keys, q, sums, scratch);
                }
                for (sums, total) in sums.chunks_exact_mut(shape.v_dim).zip(&scratch.total) {
                    (self.ops.scale)(sums, 1.0 / total);
                }
            }
        });
    }

    /// Adds the keys `keys` of one page to the running softmax of the queries `q`.
    #[expect(clippy::too_many_arguments, reason = "the inner loop's state, spelled out")]
    fn visit(
        &self,
        op: &Attention,
        view: PageView<'_>,
        kv_head: usize,
        keys: std::ops::Range<usize>,
        q: &[f32],
        sums: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let shape = &self.backend.program.kv[op.layer];
        let n_keys = keys.len();
        let span = |dim: usize| {
            let first = (kv_head * PAGE_TOKENS + keys.start) * dim;
            first..first + n_keys * dim
        };
        let (k_span, v_span) = (span(shape.k_dim), span(shape.v_dim));
        scratch.scores.resize(q.len() / shape.k_dim * n_keys, 0.0);
        let scores = &mut scratch.scores[..];
        match view {
            PageView::F32 { k, .. } => {
                (self.ops.scores_f32)(q, &k[k_span], shape.k_dim, op.scale, scores);
            }
            PageView::F16 { k, .. } => {
                (self.ops.scores_f16)(q, &k[k_span], shape.k_dim, op.scale, scores);
            }
        }
        if let Some(cap) = op.softcap {
            scores.iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
        }
        let running = scratch.max.iter_mut().zip(&mut scratch.total);
        let rows = scores.chunks_exact_mut(n_keys).zip(sums.chunks_exact_mut(shape.v_dim));
        for ((scores, sums), (max, total)) in rows.zip(running) {
            let page_max = (self.ops.max)(scores);
            if page_max > *max {
                let shrink = (*max - page_max).exp();
                *total *= shrink;
                (self.ops.scale)(sums, shrink);
                *max = page_max;
            }
            *total += (self.ops.exp_sum)(scores, *max);
        }
        match view {
            PageView::F32 { v, .. } => {
                (self.ops.weighted_sum_f32)(scores, &v[v_span], shape.v_dim, sums);
            }
            PageView::F16 { v, .. } => {
                (self.ops.weighted_sum_f16)(scores, &v[v_span], shape.v_dim, sums);
            }
        }
    }
}
