//! Rotation and attention over the pages of the KV cache.
//!
//! Every query visits the pages that it sees in order, with a running maximum (online softmax,
//! arXiv:1805.02867), so its result does not depend on what else is in the batch. The queries of a
//! group of heads, and of neighbouring tokens of a prompt, visit a page together.

use super::pool::Phase;
use super::{Context, WorkerScratch, at_least, soft_cap};
use crate::backend::pages::{PAGE_TOKENS, PageId, PageView};
use crate::backend::program::{Attention, Norm, RopeKv};
use std::ops::Range;

/// Tokens of a prompt whose queries visit a page together: as many as fill the kernels' tiles.
const TILE_TOKENS: usize = 8;

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    /// Keys and values of a token.
    row: Vec<f32>,
    head: Vec<f32>,
    /// Tokens whose queries visit pages together.
    tile: Vec<usize>,
    /// `[queries][k_dim]`
    q: Vec<f32>,
    /// `[queries][PAGE_TOKENS]`
    scores: Vec<f32>,
    softmax: Softmax,
}

/// Online softmax of some queries: relative to `max`, `total` is the sum of the exponentials so far
/// and `sums` that of the values weighted with them.
#[derive(Default)]
struct Softmax {
    max: Vec<f32>,
    total: Vec<f32>,
    /// `[queries][v_dim]`
    sums: Vec<f32>,
}

impl Softmax {
    fn reset(&mut self, n_queries: usize, v_dim: usize) {
        self.max.clear();
        self.max.resize(n_queries, f32::NEG_INFINITY);
        self.total.clear();
        self.total.resize(n_queries, 0.0);
        self.sums.clear();
        self.sums.resize(n_queries * v_dim, 0.0);
    }
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
        let out = &self.backend.buffers[op.out.0];
        let scratch = &mut scratch.attention;
        // A few tokens: an item is one query head, to occupy all threads.
        if set.n_tokens * shape.n_kv_heads < 4 * self.worker.n_threads() {
            self.worker.phase(|phase| {
                for mut ticket in phase.tickets(set.n_tokens * op.n_heads, 1) {
                    let item = ticket.items().start;
                    let (token, head) = (item / op.n_heads, item % op.n_heads);
                    if set.contains(token) {
                        self.attend(op, &[token], head..head + 1, phase, scratch);
                        let out = out.write_cells(&mut ticket, shape.v_dim);
                        out.copy_from_slice(&scratch.softmax.sums);
                    }
                }
            });
            return;
        }
        let group = op.n_heads / shape.n_kv_heads;
        let mut tokens = std::mem::take(&mut scratch.tile);
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.n_tokens, TILE_TOKENS) {
                let mut rest = ticket.items();
                while let Some(first) = rest.find(|&token| set.contains(token)) {
                    // Tokens of one sequence stand together in a batch.
                    let sequence = self.input.sequence[first];
                    let same = |&token: &usize| self.input.sequence[token] == sequence;
                    tokens.clear();
                    tokens.push(first);
                    let others = rest.clone().take_while(same).filter(|&t| set.contains(t));
                    tokens.extend(others);
                    rest.start = tokens[tokens.len() - 1] + 1;
                    for kv_head in 0..shape.n_kv_heads {
                        let heads = kv_head * group..(kv_head + 1) * group;
                        self.attend(op, &tokens, heads, phase, scratch);
                        let cell = group * shape.v_dim;
                        for (&token, sums) in
                            tokens.iter().zip(scratch.softmax.sums.chunks_exact(cell))
                        {
                            let item = token * shape.n_kv_heads + kv_head;
                            out.write_tile_cell(&mut ticket, shape.n_kv_heads, cell, item)
                                .copy_from_slice(sums);
                        }
                    }
                }
            }
        });
        scratch.tile = tokens;
    }

    /// Attention of query heads `heads`, which share a key/value head, of some tokens of one
    /// sequence, ascending. Leaves the result in the softmax's sums, `[tokens][heads][v_dim]`.
    fn attend(
        &self,
        op: &Attention,
        tokens: &[usize],
        heads: Range<usize>,
        phase: &Phase<'_>,
        scratch: &mut Scratch,
    ) {
        let shape = &self.backend.program.kv[op.layer];
        let qkv = &self.backend.buffers[op.qkv.0];
        let Scratch { q, scores, softmax, .. } = scratch;
        let n_heads = heads.len();
        let kv_head = heads.start / (op.n_heads / shape.n_kv_heads);
        q.clear();
        for &token in tokens {
            let row = qkv.read_row(phase, token);
            q.extend_from_slice(&row[heads.start * shape.k_dim..heads.end * shape.k_dim]);
        }
        softmax.reset(tokens.len() * n_heads, shape.v_dim);
        // What a token sees: positions from..to.
        let sees = |token: usize| {
            let to = self.input.positions[token] as usize + 1;
            shape.window.map_or(0, |window| to.saturating_sub(window))..to
        };
        let (first, last) = (sees(tokens[0]), sees(tokens[tokens.len() - 1]));
        for page in first.start / PAGE_TOKENS..last.end.div_ceil(PAGE_TOKENS) {
            let base = page * PAGE_TOKENS;
            let seen = |range: &Range<usize>| {
                let (from, to) = (range.start.max(base), range.end.min(base + PAGE_TOKENS));
                from.saturating_sub(base)..to.saturating_sub(base)
            };
            let view = self.arena.read(self.page(op.layer, tokens[0], page), phase);
            // The windows of ascending tokens ascend, so those between the two see it all too.
            if seen(&first).len() == PAGE_TOKENS && seen(&last).len() == PAGE_TOKENS {
                let all = 0..tokens.len() * n_heads;
                self.visit(op, view, kv_head, 0..PAGE_TOKENS, q, all, scores, softmax);
                continue;
            }
            for (i, &token) in tokens.iter().enumerate() {
                let keys = seen(&sees(token));
                if !keys.is_empty() {
                    let queries = i * n_heads..(i + 1) * n_heads;
                    self.visit(op, view, kv_head, keys, q, queries, scores, softmax);
                }
            }
        }
        let Softmax { total, sums, .. } = softmax;
        for (sums, total) in sums.chunks_exact_mut(shape.v_dim).zip(total) {
            (self.ops.scale)(sums, 1.0 / *total);
        }
    }

    /// Adds the keys `keys` of one page to the softmax of the queries `queries`.
    #[expect(clippy::too_many_arguments, reason = "the inner loop's state, spelled out")]
    fn visit(
        &self,
        op: &Attention,
        view: PageView<'_>,
        kv_head: usize,
        keys: Range<usize>,
        q: &[f32],
        queries: Range<usize>,
        scores: &mut Vec<f32>,
        softmax: &mut Softmax,
    ) {
        let shape = &self.backend.program.kv[op.layer];
        let (k_dim, v_dim) = (shape.k_dim, shape.v_dim);
        let n_keys = keys.len();
        let span = |dim: usize| {
            let first = (kv_head * PAGE_TOKENS + keys.start) * dim;
            first..first + n_keys * dim
        };
        let (k_span, v_span) = (span(k_dim), span(v_dim));
        let q = &q[queries.start * k_dim..queries.end * k_dim];
        let scores = at_least(scores, queries.len() * n_keys);
        match view {
            PageView::F32 { k, .. } => {
                (self.ops.scores_f32)(q, &k[k_span], k_dim, op.scale, scores);
            }
            PageView::F16 { k, .. } => {
                (self.ops.scores_f16)(q, &k[k_span], k_dim, op.scale, scores);
            }
        }
        if let Some(cap) = op.softcap {
            soft_cap(scores, cap);
        }
        let sums = &mut softmax.sums[queries.start * v_dim..queries.end * v_dim];
        let running = softmax.max[queries.clone()].iter_mut().zip(&mut softmax.total[queries]);
        let rows = scores.chunks_exact_mut(n_keys).zip(sums.chunks_exact_mut(v_dim));
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
            PageView::F32 { v, .. } => (self.ops.weighted_sum_f32)(scores, &v[v_span], v_dim, sums),
            PageView::F16 { v, .. } => (self.ops.weighted_sum_f16)(scores, &v[v_span], v_dim, sums),
        }
    }
}
