//! Attention over the pages of the KV cache.
//!
//! **The order of sums.** The keys of a sequence come in chunks of [`CHUNK_TOKENS`] positions,
//! from position 0 on. A query makes the softmax and weighted sum of the keys that it sees in each
//! chunk by itself; then the chunks are merged in ascending order, rescaled to the larger maximum
//! (arXiv:1805.02867). So a result depends on neither the batch nor the threads, and the chunks of
//! one query can be computed at the same time.
//!
//! **The work.** Neighbouring tokens of a sequence are a tile, and all heads of a tile that share
//! keys visit a page together. An item is one tile and one key/value head; where those are too few
//! to occupy the threads, or tiles are single tokens, it is one chunk of them, and a second phase
//! merges. Where chunks are many and small, as in a decode step at depth, an item has several
//! key/value heads and visits them page by page: then memory is read in the order in which it lies,
//! which is twice as fast.

mod cut;
mod softmax;

pub(super) use cut::{Tiles, partials_len};

use super::pages::{HeadView, Matrix};
use super::pool::Phase;
use super::{Context, TokenSet, WorkerScratch, at_least};
use crate::backend::pages::{PAGE_TOKENS, PageId};
use crate::backend::program::Attention;
use cut::{CHUNK_TOKENS, Cut, chunks_of, sees, within};
use softmax::{Softmax, SoftmaxState};
use std::ops::Range;
use teff_kernels::Ahead;

/// Tokens of a tile: batch index, and the positions that the token sees.
type Tile = [(usize, Range<usize>)];

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    /// The tokens of a tile.
    tile: Vec<(usize, Range<usize>)>,
    /// `[key/value heads][rows][k_dim]`, scaled; a row is a query head of a token.
    q: Vec<f32>,
    /// Keys or values of a page, widened.
    page: Vec<f32>,
    /// `[key/value heads][rows][CHUNK_TOKENS]`
    scores: Vec<f32>,
    /// Softmax of one chunk.
    chunk: Softmax,
    /// Softmax of all chunks so far.
    all: Softmax,
}

/// A chunk of keys, as the heads of a tile visit it: in the order of memory, all heads of a page,
/// then the next page.
struct Visits<'a> {
    op: &'a Attention,
    tile: &'a Tile,
    /// Key/value heads.
    heads: Range<usize>,
    /// Rows of a key/value head: its query heads of each token.
    n_rows: usize,
    /// Position of the chunk's first key.
    base: usize,
    /// Keys from the first visited page on to the last key seen, counted from `base`.
    keys: Range<usize>,
    phase: &'a Phase<'a>,
}

impl Visits<'_> {
    /// Number of pages of heads.
    fn len(&self) -> usize {
        self.keys.len().div_ceil(PAGE_TOKENS) * self.heads.len()
    }

    /// First key of the page and head of a visit, counted from those of the chunk and the item.
    fn place(&self, visit: usize) -> (usize, usize) {
        let n_heads = self.heads.len();
        (self.keys.start + visit / n_heads * PAGE_TOKENS, visit % n_heads)
    }
}

impl Context<'_> {
    /// The page that holds a token's keys and values number `page * PAGE_TOKENS` and so on.
    pub(super) fn page(&self, layer: usize, token: usize, page: usize) -> PageId {
        let tables = self.input.tables[self.input.sequence[token] as usize];
        let table = &tables[self.arena.group_of(layer)];
        table[page].expect("the cache keeps what the window shows")
    }

    pub(super) fn attention(&self, op: &Attention, scratch: &mut WorkerScratch) {
        let (program, n_threads) = (&self.backend.program, self.worker.n_threads());
        let cut = Cut::new(op, program, self.input, &self.backend.tiles, n_threads);
        let set = self.set(op.rows);
        self.attend_items(op, &cut, set, &mut scratch.attention);
        if !cut.direct {
            self.merge_items(op, &cut, set, &mut scratch.attention);
        }
    }

    /// The phase of the items: results, or partial results of chunks.
    fn attend_items(&self, op: &Attention, cut: &Cut, set: TokenSet<'_>, scratch: &mut Scratch) {
        let program = &self.backend.program;
        let shape = &program.kv[op.layer];
        let tiles = self.backend.tiles.of(op.rows);
        let v_dim = shape.v_dim;
        let group = op.n_heads / shape.n_kv_heads;
        let (out, partials) = (&self.backend.buffers[op.out.0], &self.backend.partials);
        let mut tile = std::mem::take(&mut scratch.tile);
        let seen = |i: usize| (set.get(i), sees(program, op.layer, self.input, set.get(i)));
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(cut.n_items, cut.run) {
                for item in ticket.items() {
                    let (n_tile, heads, part) = cut.place(item);
                    tile.clear();
                    tile.extend(tiles[n_tile].clone().map(seen));
                    let mut chunks = chunks_of(&tile[0].1, &tile[tile.len() - 1].1);
                    if cut.parts > 1 {
                        let chunk = chunks.start + part;
                        chunks = chunk..chunks.end.min(chunk + 1);
                    }
                    if chunks.is_empty() {
                        continue;
                    }
                    self.attend(op, &tile, heads.clone(), chunks, phase, scratch);
                    let Softmax { rows, sums } = &mut scratch.all;
                    if cut.direct {
                        self.finish(op, heads.start * group, (rows, sums));
                        let out = out.write_cell(&mut ticket, cut.heads * group * v_dim, item);
                        out.copy_from_slice(sums);
                        continue;
                    }
                    let cell = partials.write_cell(&mut ticket, cut.cell, item);
                    let cells = cell.chunks_exact_mut(v_dim + 2);
                    for ((to, row), sums) in cells.zip(rows).zip(sums.chunks_exact(v_dim)) {
                        to[..v_dim].copy_from_slice(sums);
                        to[v_dim..].copy_from_slice(&[row.max, row.total]);
                    }
                }
            }
        });
        scratch.tile = tile;
    }

    /// The phase that merges partial results, in ascending order of chunks.
    fn merge_items(&self, op: &Attention, cut: &Cut, set: TokenSet<'_>, scratch: &mut Scratch) {
        let program = &self.backend.program;
        let shape = &program.kv[op.layer];
        let tiles = self.backend.tiles.of(op.rows);
        let (n_kv_heads, v_dim) = (shape.n_kv_heads, shape.v_dim);
        let group = op.n_heads / n_kv_heads;
        let (out, partials) = (&self.backend.buffers[op.out.0], &self.backend.partials);
        let seen = |i: usize| sees(program, op.layer, self.input, set.get(i));
        self.worker.phase(|phase| {
            let partials = partials.read(phase);
            for mut ticket in phase.tickets(set.n_tokens * n_kv_heads, 1) {
                let (token, kv_head) =
                    (ticket.items().start / n_kv_heads, ticket.items().start % n_kv_heads);
                let Some(i) = set.position(token) else { continue };
                let n_tile = tiles.partition_point(|tile| tile.end <= i);
                let tile = &tiles[n_tile];
                let chunks = chunks_of(&seen(tile.start), &seen(tile.end - 1));
                let Softmax { rows, sums } = &mut scratch.all;
                rows.clear();
                rows.resize(group, SoftmaxState::NONE);
                let sums = at_least(sums, group * v_dim);
                for part in 0..cut.parts.min(chunks.len()) {
                    let (item, head) = cut.item_of(n_tile, kv_head, part);
                    let row = (head * tile.len() + i - tile.start) * group;
                    let cells = partials[item * cut.cell..][..cut.cell].chunks_exact(v_dim + 2);
                    let cells = cells.skip(row);
                    for ((row, sums), cell) in
                        rows.iter_mut().zip(sums.chunks_exact_mut(v_dim)).zip(cells)
                    {
                        let other = SoftmaxState { max: cell[v_dim], total: cell[v_dim + 1] };
                        row.merge(sums, other, &cell[..v_dim], self.ops);
                    }
                }
                self.finish(op, kv_head * group, (rows, sums));
                out.write_cells(&mut ticket, group * v_dim).copy_from_slice(sums);
            }
        });
    }

    /// Turns sums into means, for query heads from `first` on, and takes back the Hadamard rotation
    /// of the values.
    fn finish(&self, op: &Attention, first: usize, (rows, sums): (&[SoftmaxState], &mut [f32])) {
        let shape = &self.backend.program.kv[op.layer];
        let rows = rows.iter().zip(sums.chunks_exact_mut(shape.v_dim));
        for (i, (row, sums)) in rows.enumerate() {
            let mut total = row.total;
            if let Some(sinks) = &op.sinks {
                let max = row.max.max(sinks[first + i]);
                let mut factors = [row.max, sinks[first + i]];
                (self.ops.exp_sum)(&mut factors, max);
                (self.ops.scale)(sums, factors[0]);
                total = total.mul_add(factors[0], factors[1]);
            }
            (self.ops.scale)(sums, 1.0 / total);
            self.arena.kind().rotate(sums, shape.v_dim, self.ops);
        }
    }

    /// Leaves in `scratch.all` the softmax of the query heads of some key/value heads over some
    /// chunks, for the tokens of a tile: rows `[key/value heads][tokens][heads of the group]`.
    fn attend(
        &self,
        op: &Attention,
        tile: &Tile,
        heads: Range<usize>,
        chunks: Range<usize>,
        phase: &Phase<'_>,
        scratch: &mut Scratch,
    ) {
        let shape = &self.backend.program.kv[op.layer];
        let qkv = &self.backend.buffers[op.qkv.0];
        let q_len = op.n_heads / shape.n_kv_heads * shape.k_dim;
        scratch.q.clear();
        for head in heads.clone() {
            for &(token, _) in tile {
                let row = qkv.read_row(phase, token);
                scratch.q.extend_from_slice(&row[head * q_len..][..q_len]);
            }
        }
        (self.ops.scale)(&mut scratch.q, op.scale);
        scratch.all.reset(scratch.q.len() / shape.k_dim, shape.v_dim);
        for chunk in chunks {
            self.attend_chunk(op, tile, heads.clone(), chunk * CHUNK_TOKENS, phase, scratch);
            scratch.all.merge(&scratch.chunk, shape.v_dim, self.ops);
        }
    }

    /// Leaves in `scratch.chunk` the softmax of the rows of `scratch.q` over the chunk of keys from
    /// position `base` on.
    fn attend_chunk(
        &self,
        op: &Attention,
        tile: &Tile,
        heads: Range<usize>,
        base: usize,
        phase: &Phase<'_>,
        scratch: &mut Scratch,
    ) {
        let shape = &self.backend.program.kv[op.layer];
        let n_rows = tile.len() * (op.n_heads / shape.n_kv_heads);
        scratch.chunk.reset(heads.len() * n_rows, shape.v_dim);
        let seen = tile[0].1.start..tile[tile.len() - 1].1.end;
        let seen = within(&seen, base, CHUNK_TOKENS);
        let keys = seen.start / PAGE_TOKENS * PAGE_TOKENS..seen.end;
        let visits = Visits { op, tile, heads, n_rows, base, keys, phase };
        let begin = self.view(&visits, visits.place(0));
        self.score_keys(&visits, begin, scratch);
        self.weigh_keys(&visits, scratch);
        self.sum_values(&visits, begin, scratch);
    }

    /// A head's part of the page from the chunk's key `at` on.
    fn view<'p>(&self, visits: &Visits<'p>, (at, head): (usize, usize)) -> HeadView<'p>
    where
        Self: 'p,
    {
        let Visits { op, tile, heads, base, phase, .. } = visits;
        let page = self.page(op.layer, tile[0].0, (base + at) / PAGE_TOKENS);
        self.arena.read((op.layer, page), heads.start + head, phase)
    }

    /// Leaves the products of queries and keys in `scratch.scores`.
    fn score_keys(&self, visits: &Visits<'_>, begin: HeadView<'_>, scratch: &mut Scratch) {
        let (n_rows, n_visits) = (visits.n_rows, visits.len());
        let k_dim = self.backend.program.kv[visits.op.layer].k_dim;
        let Scratch { q, page: wide, scores, .. } = scratch;
        let scores = at_least(scores, visits.heads.len() * n_rows * CHUNK_TOKENS);
        scores.fill(0.0);
        let mut here = begin;
        for visit in 0..n_visits {
            let is_last = visit + 1 == n_visits;
            let next = if is_last { begin } else { self.view(visits, visits.place(visit + 1)) };
            // The CPU does not know where the next keys or values are.
            let ahead = match is_last {
                false => next.keys_ahead(self.ops),
                true => next.values_ahead(self.ops),
            };
            let (at, head) = visits.place(visit);
            let rows = (&q[head * n_rows * k_dim..], k_dim);
            let scores = &mut scores[head * n_rows * CHUNK_TOKENS + at..];
            let keys = here.keys(n_rows, self.ops, wide);
            self.add_product(n_rows, rows, keys, PAGE_TOKENS, (scores, CHUNK_TOKENS), ahead);
            here = next;
        }
    }

    /// Turns scores into weights `exp(score - max)`, and notes maxima and sums in `scratch.chunk`.
    fn weigh_keys(&self, visits: &Visits<'_>, scratch: &mut Scratch) {
        let (op, tile, ops) = (visits.op, visits.tile, self.ops);
        let group = visits.n_rows / tile.len();
        let rows = scratch.chunk.rows.chunks_exact_mut(group);
        let scores_of = scratch.scores.chunks_exact_mut(group * CHUNK_TOKENS);
        for (i, (rows, scores)) in rows.zip(scores_of).enumerate() {
            let (head, (token, seen)) = (i / tile.len(), &tile[i % tile.len()]);
            let keys = within(seen, visits.base, CHUNK_TOKENS);
            let at = self.input.positions[*token] as usize;
            if keys.is_empty() {
                continue;
            }
            let all = rows.iter_mut().zip(scores.chunks_exact_mut(CHUNK_TOKENS));
            for (i, (row, scores)) in all.enumerate() {
                let scores = &mut scores[keys.clone()];
                if let Some(cap) = op.softcap {
                    (ops.soft_cap)(scores, cap);
                }
                if let Some(slopes) = &op.slopes {
                    let slope = slopes[(visits.heads.start + head) * group + i];
                    for (key, score) in (visits.base + keys.start..).zip(scores.iter_mut()) {
                        *score -= slope * at.abs_diff(key) as f32;
                    }
                }
                row.max = (ops.max)(scores);
                row.total = (ops.exp_sum)(scores, row.max);
            }
        }
    }

    /// Adds the weighted values to the sums of `scratch.chunk`.
    fn sum_values(&self, visits: &Visits<'_>, begin: HeadView<'_>, scratch: &mut Scratch) {
        let &Visits { tile, n_rows, base, .. } = visits;
        let (group, n_visits) = (n_rows / tile.len(), visits.len());
        let v_dim = self.backend.program.kv[visits.op.layer].v_dim;
        let Scratch { page: wide, scores, chunk: softmax, .. } = scratch;
        let mut here = begin;
        for visit in 0..n_visits {
            let (next, mut ahead) = match visit + 1 {
                next if next < n_visits => {
                    let next = self.view(visits, visits.place(next));
                    (next, next.values_ahead(self.ops))
                }
                _ if base + CHUNK_TOKENS < tile[tile.len() - 1].1.end => {
                    (begin, self.view(visits, (CHUNK_TOKENS, 0)).keys_ahead(self.ops))
                }
                _ => (begin, Ahead::NONE),
            };
            let (at, head) = visits.place(visit);
            let values = here.values(n_rows, self.ops, wide);
            let mut add = |tokens: Range<usize>, keys: Range<usize>| {
                if tokens.is_empty() || keys.is_empty() {
                    return;
                }
                let row = head * n_rows + tokens.start * group;
                let p = (&scores[row * CHUNK_TOKENS + at + keys.start..], CHUNK_TOKENS);
                let sums = (&mut softmax.sums[row * v_dim..], v_dim);
                let values = values.rows(keys, v_dim);
                let ahead = std::mem::replace(&mut ahead, Ahead::NONE);
                self.add_product(tokens.len() * group, p, values, v_dim, sums, ahead);
            };
            // The keys that ascending tokens see ascend: those that see the whole page are
            // neighbours.
            let seen = |i: usize| within(&tile[i].1, base + at, PAGE_TOKENS);
            let whole = |i: &usize| seen(*i).len() == PAGE_TOKENS;
            let first = (0..tile.len()).find(whole).unwrap_or(tile.len());
            let end = (first..tile.len()).find(|i| !whole(i)).unwrap_or(tile.len());
            add(first..end, 0..PAGE_TOKENS);
            for i in (0..first).chain(end..tile.len()) {
                add(i..i + 1, seen(i));
            }
            here = next;
        }
    }

    fn add_product(
        &self,
        n: usize,
        a: (&[f32], usize),
        b: Matrix<'_>,
        cols: usize,
        c: (&mut [f32], usize),
        ahead: Ahead,
    ) {
        match b {
            Matrix::F32(b) => (self.ops.add_product_f32)(n, a, b, cols, c, ahead),
            Matrix::F16(b) => (self.ops.add_product_f16)(n, a, b, cols, c, ahead),
        }
    }
}
