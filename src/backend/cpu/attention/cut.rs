//! The work of attention cut into items for the threads.
//!
//! Neighbouring tokens of a sequence are a tile. An item is a tile, one or several key/value heads,
//! and all or one of the chunks of keys: as many items as occupy the threads, as long as their
//! partial results stay small. How work is cut does not change results.

use super::super::StepInput;
use crate::backend::pages::PAGE_TOKENS;
use crate::backend::program::{Attention, KvShape, Op, Program, Tokens};
use std::ops::Range;

/// Positions in a chunk: a multiple of the page's, small enough that a few thousand tokens occupy
/// many threads, large enough that merging is little beside the products.
pub const CHUNK_TOKENS: usize = 4 * PAGE_TOKENS;
/// Tokens of a tile: as many as make the widening of a page cheap beside the products.
const TILE_TOKENS: usize = 16;
/// Items per thread that even out unequal ones.
const ITEMS_PER_THREAD: usize = 4;
/// Elements of the scores of an item of several key/value heads: they stay in the first-level
/// cache.
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
/// The tiles of a step, as ranges of its tokens and of its outputs.
pub struct Tiles {
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

    /// Cuts the batch of a step.
    pub fn set(&mut self, input: &StepInput<'_>) {
        cut_tiles(&mut self.all, self.tokens_max, input.sequence.iter().copied());
        let outputs = input.outputs.iter().map(|&token| input.sequence[token as usize]);
        cut_tiles(&mut self.outputs, self.tokens_max, outputs);
    }

    /// Tiles of the tokens that an operation computes.
    pub fn of(&self, rows: Tokens) -> &[Range<usize>] {
        match rows {
            Tokens::All => &self.all,
            Tokens::Outputs => &self.outputs,
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

/// Cut of one operation into items.
pub struct Cut {
    /// Key/value heads of an item.
    pub heads: usize,
    /// Items of a tile and a chunk.
    n_head_groups: usize,
    /// Items of the whole operation.
    pub n_items: usize,
    /// Items of a ticket.
    pub run: usize,
    /// Items of a tile and its key/value heads: its chunks if there are several.
    pub parts: usize,
    /// Elements of an item's partial result: `[key/value heads][rows][v_dim + 2]`, behind the sums
    /// max and total.
    pub cell: usize,
    /// Whether a result is one token's and goes straight to the output.
    pub direct: bool,
}

impl Cut {
    /// The cut of an operation for a batch: items enough for the threads, results small enough.
    pub fn new(
        op: &Attention,
        program: &Program,
        input: &StepInput<'_>,
        tiles: &Tiles,
        n_threads: usize,
    ) -> Cut {
        let shape = &program.kv[op.layer];
        let tiles = tiles.of(op.rows);
        let token_of = |i: usize| match op.rows {
            Tokens::All => i,
            Tokens::Outputs => input.outputs[i] as usize,
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
    pub fn place(&self, item: usize) -> (usize, Range<usize>, usize) {
        let (group, part) = (item / self.parts, item % self.parts);
        let first = group % self.n_head_groups * self.heads;
        (group / self.n_head_groups, first..first + self.heads, part)
    }

    /// The item of a tile, a key/value head and a part, and the head's place in it.
    pub fn item_of(&self, tile: usize, kv_head: usize, part: usize) -> (usize, usize) {
        let group = tile * self.n_head_groups + kv_head / self.heads;
        (group * self.parts + part, kv_head % self.heads)
    }
}

/// Elements of the partial results of a step.
pub fn partials_len(
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

/// Positions that a token sees: the same or later ones for later tokens of a sequence.
pub fn sees(program: &Program, layer: usize, input: &StepInput<'_>, token: usize) -> Range<usize> {
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

/// Chunks that ascending tokens of a sequence see, from the positions that the first and the last
/// see.
pub fn chunks_of(first: &Range<usize>, last: &Range<usize>) -> Range<usize> {
    first.start / CHUNK_TOKENS..last.end.div_ceil(CHUNK_TOKENS)
}

/// The part of `seen` within `base..base + n`, counted from `base`.
pub fn within(seen: &Range<usize>, base: usize, n: usize) -> Range<usize> {
    let (from, to) = (seen.start.max(base), seen.end.min(base + n));
    from.saturating_sub(base).min(n)..to.saturating_sub(base)
}
