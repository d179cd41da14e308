//! Rotation and attention over the pages of the KV cache.
//!
//! **The order of sums.** The keys of a sequence come in chunks of [`CHUNK_TOKENS`] positions,
//! from position 0 on. A query takes of each chunk the keys it sees and makes their softmax and
//! weighted sum by itself; then the chunks are merged in ascending order, rescaled to the larger
//! maximum (arXiv:1805.02867). So a result depends on neither the batch nor the threads, and the
//! chunks of one query can be computed at the same time.
//!
//! **The work.** Neighbouring tokens of a sequence are a tile, and all heads of a tile that share
//! keys visit a page together. An item is one tile and one key/value head; where those are too few
//! to occupy the threads, or tiles are single tokens, it is one chunk of them, and a second phase
//! merges. Where chunks are many and small, as in a decode step at depth, an item has several
//! key/value heads and visits them page by page: then memory is read in the order in which it lies,
//! which is twice as fast.

use super::pages::{Matrix, WriteScratch};
use super::pool::{Phase, Ticket};
use super::{Context, StepInput, WorkerScratch, at_least, resize};
use crate::backend::pages::{PAGE_TOKENS, PageId};
use crate::backend::program::{Attention, HeadNorm, KvShape, NormKind, Op, Program, RopeKv, Rows};
use std::ops::Range;
use teff_kernels::{Ahead, FloatOps};

/// Positions in a chunk: a multiple of the page's, small enough that a few thousand tokens occupy
/// many threads, large enough that merging is little beside the products.
const CHUNK_TOKENS: usize = 4 * PAGE_TOKENS;
/// Tokens of a tile: as many as make the widening of a page cheap beside the products.
const TILE_TOKENS: usize = 16;
/// Items per thread that even out unequal ones.
const ITEMS_PER_THREAD: usize = 4;
/// Elements of the scores of an item of several key/value heads: they stay in the first-level cache.
const SCORES_MAX: usize = 1 << 13;
/// Most chunks of a ticket, one after the other: the first keys of each but the first are asked
/// for ahead.
const RUN_MAX: usize = 4;
/// Tickets per thread that even out unequal threads.
const RUNS_PER_THREAD: usize = 8;
/// Elements of a partial result, at most: a tile of a network that wide is smaller.
const CELL_MAX: usize = 1 << 21;
/// Elements of unmerged chunks, at most (16 MiB): beyond, items take all their chunks.
const PARTIALS_MAX: usize = 1 << 22;
/// Tokens per worker from which on a page is rotated and written to the cache by one worker: tokens of a page
/// share its cache lines.
const PAGED_TOKENS_MIN: usize = 4 * PAGE_TOKENS;

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    /// Keys and values of a token.
    row: Vec<f32>,
    head: Vec<f32>,
    write: WriteScratch,
    /// The tokens of a tile and the positions each of them sees.
    tile: Vec<(usize, Range<usize>)>,
    /// `[key/value heads][rows][k_dim]`, scaled; a row is a query head of a token.
    q: Vec<f32>,
    /// Keys or values of a page, widened.
    page: Vec<f32>,
    /// `[key/value heads][rows][CHUNK_TOKENS]`
    scores: Vec<f32>,
    /// Of one chunk.
    chunk: Softmax,
    /// Of all chunks so far.
    all: Softmax,
}

/// Softmax and weighted sums of some rows over some keys.
#[derive(Default)]
struct Softmax {
    /// `[key/value heads][rows]`
    rows: Vec<Weight>,
    /// `[key/value heads][rows][v_dim]`: values weighted with `exp(score - max)`.
    sums: Vec<f32>,
}

/// What a row's sums are relative to: the largest score, and the sum of `exp(score - max)`, which
/// is 0 before the first key and at least 1 after it.
#[derive(Clone, Copy)]
struct Weight {
    max: f32,
    total: f32,
}

impl Weight {
    const NONE: Weight = Weight { max: f32::NEG_INFINITY, total: 0.0 };

    /// Adds the keys of `other`, which come after, with their sums.
    fn merge(&mut self, sums: &mut [f32], other: Weight, other_sums: &[f32], ops: &FloatOps) {
        if other.total == 0.0 {
            return;
        }
        if self.total == 0.0 {
            *self = other;
            sums.copy_from_slice(other_sums);
            return;
        }
        let max = if other.max > self.max { other.max } else { self.max };
        let mut factors = [self.max, other.max];
        (ops.exp_sum)(&mut factors, max);
        // A factor of 1 changes nothing.
        if factors[0] != 1.0 {
            (ops.scale)(sums, factors[0]);
        }
        (ops.add_scaled)(sums, other_sums, factors[1]);
        let total = other.total.mul_add(factors[1], self.total * factors[0]);
        *self = Weight { max, total };
    }
}

impl Softmax {
    fn reset(&mut self, n_rows: usize, v_dim: usize) {
        self.rows.clear();
        self.rows.resize(n_rows, Weight::NONE);
        self.sums.clear();
        resize(&mut self.sums, n_rows * v_dim);
    }

    fn merge(&mut self, other: &Softmax, v_dim: usize, ops: &FloatOps) {
        let rows = self.rows.iter_mut().zip(self.sums.chunks_exact_mut(v_dim));
        let others = other.rows.iter().zip(other.sums.chunks_exact(v_dim));
        for ((row, sums), (&other, other_sums)) in rows.zip(others) {
            row.merge(sums, other, other_sums, ops);
        }
    }
}

/// The tiles of a step, as ranges of its tokens and of its outputs.
pub(super) struct Tiles {
    tokens_max: usize,
    all: Vec<Range<usize>>,
    outputs: Vec<Range<usize>>,
}

impl Tiles {
    /// Tiles that suit all operations of a program.
    pub fn new(program: &Program) -> Tiles {
        let row = |op: &Op| match op {
            Op::Attention(op) => row_elements(op, &program.kv[op.layer]),
            _ => 0,
        };
        let widest = program.ops.iter().map(row).max().unwrap_or(0);
        let tokens_max = TILE_TOKENS.min(CELL_MAX / widest.max(1)).max(1);
        Tiles { tokens_max, all: Vec::new(), outputs: Vec::new() }
    }

    pub fn set(&mut self, input: &StepInput<'_>) {
        cut_tiles(&mut self.all, self.tokens_max, input.sequence.iter().copied());
        let outputs = input.outputs.iter().map(|&token| input.sequence[token as usize]);
        cut_tiles(&mut self.outputs, self.tokens_max, outputs);
    }

    fn of(&self, rows: Rows) -> &[Range<usize>] {
        match rows {
            Rows::All => &self.all,
            Rows::Outputs => &self.outputs,
        }
    }
}

/// Runs of one sequence, of at most `tokens_max`.
fn cut_tiles(
    tiles: &mut Vec<Range<usize>>,
    tokens_max: usize,
    sequences: impl Iterator<Item = u32>,
) {
    tiles.clear();
    let mut last = None;
    for (i, sequence) in sequences.enumerate() {
        match tiles.last_mut() {
            Some(tile) if last == Some(sequence) && tile.len() < tokens_max => tile.end = i + 1,
            _ => tiles.push(i..i + 1),
        }
        last = Some(sequence);
    }
}

/// Elements of a partial result of a token and a key/value head.
fn row_elements(op: &Attention, shape: &KvShape) -> usize {
    op.n_heads / shape.n_kv_heads * (shape.v_dim + 2)
}

/// How one operation is cut into items.
struct Cut {
    /// Key/value heads of an item.
    heads: usize,
    /// Items of a tile and a chunk.
    n_head_groups: usize,
    n_items: usize,
    /// Items of a ticket.
    run: usize,
    /// Items of a tile and its key/value heads: its chunks if there are several.
    parts: usize,
    /// Elements of an item's partial result: `[key/value heads][rows][v_dim + 2]`, behind the sums
    /// max and total.
    cell: usize,
    /// A result is one token's and goes straight to the output.
    direct: bool,
}

impl Cut {
    fn new(
        op: &Attention,
        program: &Program,
        input: &StepInput<'_>,
        tiles: &Tiles,
        n_threads: usize,
    ) -> Cut {
        let shape = &program.kv[op.layer];
        let tiles = tiles.of(op.rows);
        let token_of = |i: usize| match op.rows {
            Rows::All => i,
            Rows::Outputs => input.outputs[i] as usize,
        };
        let chunks = tiles.iter().map(|tile| {
            let ends =
                [tile.start, tile.end - 1].map(|i| sees(program, op.layer, input, token_of(i)));
            chunks_of(&ends[0], &ends[1]).len()
        });
        let n_chunks = chunks.max().unwrap_or(0);
        let tile_tokens = tiles.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let n_kv_heads = shape.n_kv_heads;
        let head_cell = tile_tokens * row_elements(op, shape);
        let n_items = tiles.len() * n_kv_heads;
        let enough = ITEMS_PER_THREAD * n_threads;
        // Of single tokens even enough heads are split: together they read memory in its order.
        let wants_split = n_threads > 1 && (n_items < enough || tile_tokens == 1);
        let is_split = wants_split && n_items * n_chunks * head_cell <= PARTIALS_MAX;
        let parts = if is_split { n_chunks.max(1) } else { 1 };
        let n_cells = tiles.len() * parts;
        let head_scores = tile_tokens * op.n_heads / n_kv_heads * CHUNK_TOKENS;
        let suits = |&heads: &usize| {
            let occupies = n_cells * (n_kv_heads / heads) >= enough || n_threads == 1;
            n_kv_heads.is_multiple_of(heads) && heads * head_scores <= SCORES_MAX && occupies
        };
        let heads = (2..=n_kv_heads).rev().find(suits).unwrap_or(1);
        let n_head_groups = n_kv_heads / heads;
        let n_items = n_cells * n_head_groups;
        let run = n_items / (RUNS_PER_THREAD * n_threads);
        Cut {
            heads,
            n_head_groups,
            parts,
            n_items,
            run: if is_split { run.clamp(1, RUN_MAX) } else { 1 },
            cell: heads * head_cell,
            direct: parts == 1 && tiles.len() == input.tokens.len(),
        }
    }

    /// Tile, key/value heads and part of an item.
    fn place(&self, item: usize) -> (usize, Range<usize>, usize) {
        let (group, part) = (item / self.parts, item % self.parts);
        let first = group % self.n_head_groups * self.heads;
        (group / self.n_head_groups, first..first + self.heads, part)
    }

    /// The item of a tile, a key/value head and a part, and the head's place in it.
    fn item_of(&self, tile: usize, kv_head: usize, part: usize) -> (usize, usize) {
        let group = tile * self.n_head_groups + kv_head / self.heads;
        (group * self.parts + part, kv_head % self.heads)
    }
}

/// Elements that the partial results of a step take.
pub(super) fn partials_len(
    program: &Program,
    input: &StepInput<'_>,
    tiles: &Tiles,
    n_threads: usize,
) -> usize {
    let of = |op: &Op| {
        let Op::Attention(op) = op else { return 0 };
        let cut = Cut::new(op, program, input, tiles, n_threads);
        if cut.direct { 0 } else { cut.n_items * cut.cell }
    };
    program.ops.iter().map(of).max().unwrap_or(0)
}

/// The part of a norm's parameters that belongs to head `i`.
fn of_head(parameters: &Option<Vec<f32>>, dim: usize, i: usize) -> Option<&[f32]> {
    let parameters = parameters.as_ref()?;
    let first = if parameters.len() == dim { 0 } else { i * dim };
    Some(&parameters[first..][..dim])
}

/// The positions that a token sees: the same or later ones for later tokens of a sequence.
fn sees(program: &Program, layer: usize, input: &StepInput<'_>, token: usize) -> Range<usize> {
    let at = input.positions[token] as usize;
    let window = program.kv[layer].window.unwrap_or(usize::MAX);
    let from = (at + 1).saturating_sub(window);
    if !program.bidirectional {
        return from..at + 1;
    }
    let sequence = input.sequence[token];
    let end = input.sequence.partition_point(|&other| other <= sequence);
    from..at.saturating_add(window).min(input.positions[end - 1] as usize + 1)
}

/// The chunks that ascending tokens of a sequence see, given what the first and the last see.
fn chunks_of(first: &Range<usize>, last: &Range<usize>) -> Range<usize> {
    first.start / CHUNK_TOKENS..last.end.div_ceil(CHUNK_TOKENS)
}

/// What of `seen` is in `base..base + n`, counted from `base`.
fn within(seen: &Range<usize>, base: usize, n: usize) -> Range<usize> {
    let (from, to) = (seen.start.max(base), seen.end.min(base + n));
    from.saturating_sub(base).min(n)..to.saturating_sub(base)
}

impl Context<'_> {
    fn page(&self, layer: usize, token: usize, page: usize) -> PageId {
        let tables = self.input.tables[self.input.sequence[token] as usize];
        let table = &tables[self.arena.group_of(layer)];
        table[page].expect("the cache keeps what the window shows")
    }

    pub(super) fn rope_kv(&self, op: &RopeKv, scratch: &mut WorkerScratch) {
        let n_tokens = self.input.tokens.len();
        let enough = n_tokens >= PAGED_TOKENS_MIN * self.worker.n_threads();
        let chunk = if enough { PAGE_TOKENS } else { 1 };
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(n_tokens, chunk) {
                for token in ticket.items() {
                    self.rope_kv_of(op, token, &mut ticket, phase, &mut scratch.attention);
                }
            }
        });
    }

    fn rope_kv_of(
        &self,
        op: &RopeKv,
        token: usize,
        ticket: &mut Ticket<'_>,
        phase: &Phase<'_>,
        scratch: &mut Scratch,
    ) {
        let qkv = &self.backend.buffers[op.qkv.0];
        let shape = &self.backend.program.kv[op.layer];
        let q_len = op.n_heads * shape.k_dim;
        let k_len = if op.stores { shape.n_kv_heads * shape.k_dim } else { 0 };
        let Scratch { row: kv, head, write, .. } = scratch;
        let row = qkv.write_cell(ticket, qkv.width(), token);
        if let Some(clamp) = op.clamp {
            row.iter_mut().for_each(|x| *x = x.clamp(-clamp, clamp));
        }
        let (q, k) = row[..q_len + k_len].split_at_mut(q_len);
        if !op.norm_after_rope {
            self.norm_heads(op.q_norm.as_ref(), q, head);
            self.norm_heads(op.k_norm.as_ref(), k, head);
        }
        if let Some((rope, pairing)) = op.rope {
            let table = self.backend.ropes[rope.0].read_row(phase, token);
            let (cos, sin) = table.split_at(table.len() / 2);
            for head in row[..q_len + k_len].chunks_exact_mut(shape.k_dim) {
                (self.ops.rope)(&mut head[op.rope_from..], cos, sin, pairing);
            }
        }
        if op.norm_after_rope {
            let (q, k) = row[..q_len + k_len].split_at_mut(q_len);
            self.norm_heads(op.q_norm.as_ref(), q, head);
            self.norm_heads(op.k_norm.as_ref(), k, head);
        }
        if let Some(temperature) = op.temperature {
            let factor = temperature.at(self.input.positions[token]);
            row[..q_len].iter_mut().for_each(|x| *x *= factor);
        }
        let kind = self.arena.kind();
        let (qk, v) = row.split_at_mut(q_len + k_len);
        kind.rotate(qk, shape.k_dim, self.ops);
        if !op.stores {
            return;
        }
        self.norm_heads(op.v_norm.as_ref(), v, head);
        kind.rotate(v, shape.v_dim, self.ops);
        kv.clear();
        kv.extend_from_slice(&row[q_len..]);
        let (keys, values) = kv.split_at(k_len);
        let page = self.page(op.layer, token, self.input.positions[token] as usize / PAGE_TOKENS);
        let heads = keys.chunks_exact(shape.k_dim).zip(values.chunks_exact(shape.v_dim));
        for (head, key_value) in heads.enumerate() {
            let kernels = self.backend.kernels;
            self.arena.write((op.layer, page), ticket, (token, head), key_value, kernels, write);
        }
    }

    fn norm_heads(&self, norm: Option<&HeadNorm>, x: &mut [f32], head: &mut Vec<f32>) {
        let Some(HeadNorm { norm, dim }) = norm else { return };
        head.resize(*dim, 0.0);
        for (i, x) in x.chunks_exact_mut(*dim).enumerate() {
            let (weight, bias) = (of_head(&norm.weight, *dim, i), of_head(&norm.bias, *dim, i));
            match norm.kind {
                NormKind::Rms => (self.ops.rms_norm)(x, weight, norm.eps, head),
                NormKind::Layer => (self.ops.layer_norm)(x, weight, bias, norm.eps, head),
            }
            x.copy_from_slice(head);
        }
    }

    pub(super) fn attention(&self, op: &Attention, scratch: &mut WorkerScratch) {
        let program = &self.backend.program;
        let shape = &program.kv[op.layer];
        let tiles = &self.backend.tiles;
        let cut = Cut::new(op, program, self.input, tiles, self.worker.n_threads());
        let tiles = tiles.of(op.rows);
        let (set, n_kv_heads, v_dim) = (self.set(op.rows), shape.n_kv_heads, shape.v_dim);
        let group = op.n_heads / n_kv_heads;
        let (out, partials) = (&self.backend.buffers[op.out.0], &self.backend.partials);
        let scratch = &mut scratch.attention;
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
        if cut.direct {
            return;
        }
        self.worker.phase(|phase| {
            let partials = partials.read(phase);
            for mut ticket in phase.tickets(set.n_tokens * n_kv_heads, 1) {
                let (token, kv_head) =
                    (ticket.items().start / n_kv_heads, ticket.items().start % n_kv_heads);
                let Some(i) = set.position(token) else { continue };
                let n_tile = tiles.partition_point(|tile| tile.end <= i);
                let tile = &tiles[n_tile];
                let chunks = chunks_of(&seen(tile.start).1, &seen(tile.end - 1).1);
                let Softmax { rows, sums } = &mut scratch.all;
                rows.clear();
                rows.resize(group, Weight::NONE);
                let sums = at_least(sums, group * v_dim);
                for part in 0..cut.parts.min(chunks.len()) {
                    let (item, head) = cut.item_of(n_tile, kv_head, part);
                    let row = (head * tile.len() + i - tile.start) * group;
                    let cells = partials[item * cut.cell..][..cut.cell].chunks_exact(v_dim + 2);
                    let cells = cells.skip(row);
                    for ((row, sums), cell) in
                        rows.iter_mut().zip(sums.chunks_exact_mut(v_dim)).zip(cells)
                    {
                        let other = Weight { max: cell[v_dim], total: cell[v_dim + 1] };
                        row.merge(sums, other, &cell[..v_dim], self.ops);
                    }
                }
                self.finish(op, kv_head * group, (rows, sums));
                out.write_cells(&mut ticket, group * v_dim).copy_from_slice(sums);
            }
        });
    }

    /// From sums to means, for query heads from `first` on, and back from the rotation of the
    /// values.
    fn finish(&self, op: &Attention, first: usize, (rows, sums): (&[Weight], &mut [f32])) {
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

    /// Leaves in `scratch.all` what the query heads of some key/value heads get from some chunks,
    /// for the tokens of a tile: rows `[key/value heads][tokens][heads of the group]`.
    fn attend(
        &self,
        op: &Attention,
        tile: &[(usize, Range<usize>)],
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
            self.attend_chunk(op, tile, heads.clone(), chunk, phase, scratch);
            scratch.all.merge(&scratch.chunk, shape.v_dim, self.ops);
        }
    }

    /// Leaves in `scratch.chunk` what the rows of `scratch.q` get from one chunk.
    fn attend_chunk(
        &self,
        op: &Attention,
        tile: &[(usize, Range<usize>)],
        heads: Range<usize>,
        chunk: usize,
        phase: &Phase<'_>,
        scratch: &mut Scratch,
    ) {
        let shape = &self.backend.program.kv[op.layer];
        let (k_dim, v_dim, ops) = (shape.k_dim, shape.v_dim, self.ops);
        let Scratch { q, page: wide, scores, chunk: softmax, .. } = scratch;
        let group = op.n_heads / shape.n_kv_heads;
        let n_rows = tile.len() * group;
        softmax.reset(heads.len() * n_rows, v_dim);
        let base = chunk * CHUNK_TOKENS;
        let (first, last) = (&tile[0].1, &tile[tile.len() - 1].1);
        let seen = within(&(first.start..last.end), base, CHUNK_TOKENS);
        let pages = seen.start / PAGE_TOKENS * PAGE_TOKENS..seen.end;
        // A head's part of the page from `base + at` on.
        let view = |(at, head): (usize, usize)| {
            let page = self.page(op.layer, tile[0].0, (base + at) / PAGE_TOKENS);
            self.arena.read((op.layer, page), heads.start + head, phase)
        };
        // In the order of memory: all heads of a page, then the next page.
        let n_visits = pages.len().div_ceil(PAGE_TOKENS) * heads.len();
        let place =
            |visit: usize| (pages.start + visit / heads.len() * PAGE_TOKENS, visit % heads.len());
        let begin = view(place(0));

        let scores = at_least(scores, heads.len() * n_rows * CHUNK_TOKENS);
        scores.fill(0.0);
        let mut here = begin;
        for visit in 0..n_visits {
            let next = if visit + 1 < n_visits { view(place(visit + 1)) } else { begin };
            // The CPU does not know where the next keys or values are.
            let ahead = match visit + 1 < n_visits {
                true => next.keys_ahead(ops),
                false => next.values_ahead(ops),
            };
            let (at, head) = place(visit);
            let rows = (&q[head * n_rows * k_dim..], k_dim);
            let scores = &mut scores[head * n_rows * CHUNK_TOKENS + at..];
            let keys = here.keys(n_rows, ops, wide);
            self.add_product(n_rows, rows, keys, PAGE_TOKENS, (scores, CHUNK_TOKENS), ahead);
            here = next;
        }
        let rows = softmax.rows.chunks_exact_mut(group);
        let scores_of = scores.chunks_exact_mut(group * CHUNK_TOKENS);
        for (i, (rows, scores)) in rows.zip(scores_of).enumerate() {
            let (head, (token, seen)) = (i / tile.len(), &tile[i % tile.len()]);
            let keys = within(seen, base, CHUNK_TOKENS);
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
                    let slope = slopes[(heads.start + head) * group + i];
                    for (key, score) in (base + keys.start..).zip(scores.iter_mut()) {
                        *score -= slope * at.abs_diff(key) as f32;
                    }
                }
                row.max = (ops.max)(scores);
                row.total = (ops.exp_sum)(scores, row.max);
            }
        }
        let mut here = begin;
        for visit in 0..n_visits {
            let (next, mut ahead) = match visit + 1 {
                next if next < n_visits => {
                    let next = view(place(next));
                    (next, next.values_ahead(ops))
                }
                _ if base + CHUNK_TOKENS < last.end => {
                    (begin, view((CHUNK_TOKENS, 0)).keys_ahead(ops))
                }
                _ => (begin, Ahead::NONE),
            };
            let (at, head) = place(visit);
            let values = here.values(n_rows, ops, wide);
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
            // What ascending tokens see ascends: those that see the whole page are neighbours.
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
