//! The loops around tiles of float weights by many tokens: AVX2's, and those of AVX-512.
//!
//! A tile's rows are widened by the first tile of tokens that uses them, block of columns by block
//! of columns, in the order they are read. There they stay, near the core, while the tokens of a
//! block stream by from L2; and those stay in L2 for [`BLOCK_ROWS`] rows. So partial sums are in
//! memory, read and written once per block of columns.
//!
//! Tiles ask L2 for a share each of what comes next: the next rows, which are in memory, and the
//! tokens' next columns, which are in L3. Without that the first use of rows took three times the
//! time of the others.

use crate::act::Acts;
use crate::block::Float;
use crate::isa::avx2::mem::{load_ps, prefetch, store_16_ps};
use crate::isa::avx2::sum::sum_4_ps;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows that tokens stay in L2 for.
const BLOCK_ROWS: usize = 96;
/// Tokens of a block: of 768 columns 192 KiB, with as much of sums, in an L2 of 512 KiB or more.
const BLOCK_TOKENS: usize = 64;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Eight columns of `R` rows; or their eight partial sums with one token.
pub(in crate::isa) type Group<const R: usize> = [[f32; 8]; R];

/// Scratch of a thread: widened blocks of `COLS` columns for tiles of `R` rows, and sums.
#[derive(Debug)]
pub(in crate::isa) struct DenseScratch<const R: usize, const COLS: usize> {
    widened: Vec<Group<R>>,
    sums: Vec<Group<R>>,
}

impl<const R: usize, const COLS: usize> Default for DenseScratch<R, COLS> {
    fn default() -> Self {
        const { assert!(BLOCK_ROWS.is_multiple_of(R) && COLS.is_multiple_of(8)) }
        DenseScratch {
            widened: vec![[[0.0; 8]; R]; COLS / 8],
            sums: vec![[[0.0; 8]; R]; BLOCK_ROWS / R * BLOCK_TOKENS],
        }
    }
}

/// Some columns of a tile's rows.
pub(in crate::isa) enum Rows<'a, W, const R: usize> {
    /// Rows in the type of the file, and memory to widen them in, whose groups behind whole ones are filled.
    Native([&'a [W]; R], &'a mut [Group<R>]),
    /// Widened.
    Widened(&'a [Group<R>]),
}

/// Some columns of tokens, of which there are as many as sums.
pub(in crate::isa) struct Tokens<'a> {
    x: &'a [f32],
    cols: usize,
    block: Range<usize>,
}

impl<'a> Tokens<'a> {
    /// The first `N`.
    #[inline(always)]
    pub fn first<const N: usize>(&self) -> [&'a [f32]; N] {
        let mut some: [&[f32]; N] = [&[]; N];
        for i in 0..N {
            some[i] = &self.x[i * self.cols..][self.block.clone()];
        }
        some
    }
}

/// Rows, up to `N`, of which missing ones repeat the last one.
#[inline(always)]
pub(super) fn some_of<W, const N: usize>(rows: &[W], cols: usize) -> [&[W]; N] {
    let mut some: [&[W]; N] = [&[]; N];
    for r in 0..N {
        some[r] = &rows[r.min(rows.len() / cols - 1) * cols..][..cols];
    }
    some
}

/// `y[t * n_rows + r] = w[r] . x[t]`. `tile` adds the products of its rows and its first tokens, up
/// to `T`, to their sums, and returns how many tokens it took.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::isa) fn matmul<W: Float, const R: usize, const T: usize, const COLS: usize>(
    w: &[W],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut DenseScratch<R, COLS>,
    y: &mut [f32],
    tile: impl Fn(Rows<'_, W, R>, Tokens<'_>, &mut [Group<R>]) -> usize,
) {
    let cols = acts.plan.cols;
    for (b, w) in w.chunks(BLOCK_ROWS * cols).enumerate() {
        let tokens = acts.x.chunks(BLOCK_TOKENS * cols);
        for (x, y) in tokens.zip(y.chunks_mut(BLOCK_TOKENS * n_rows)) {
            let y = &mut y[b * BLOCK_ROWS..];
            block::<W, R, T, COLS>(w, x, cols, n_rows, scratch, y, &tile);
        }
    }
}

/// A block of rows by one of tokens, whose outputs are `n_rows` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn block<W: Float, const R: usize, const T: usize, const COLS: usize>(
    w: &[W],
    x: &[f32],
    cols: usize,
    n_rows: usize,
    scratch: &mut DenseScratch<R, COLS>,
    y: &mut [f32],
    tile: impl Fn(Rows<'_, W, R>, Tokens<'_>, &mut [Group<R>]) -> usize,
) {
    let n = x.len() / cols;
    let tiles = (w.len() / cols).div_ceil(R);
    let sums = &mut scratch.sums[..tiles * n];
    sums.fill([[0.0; 8]; R]);
    // Blocks of about one length.
    let step = cols.div_ceil(cols.div_ceil(COLS)).next_multiple_of(8);
    for first in (0..cols).step_by(step) {
        let k = first..cols.min(first + step);
        let ahead = Ahead::<R, T> {
            // The same tokens' next columns, or the next tokens' first.
            x: if k.end < cols { step } else { n * cols - first },
            w_share: (k.len() * size_of::<W>()).div_ceil(LINE * n.div_ceil(T)),
            x_share: (k.len() * size_of::<f32>()).div_ceil(LINE * tiles),
            cols,
            step: k.len(),
        };
        for (t, (w, sums)) in w.chunks(R * cols).zip(sums.chunks_exact_mut(n)).enumerate() {
            let rows = some_of::<W, R>(w, cols).map(|row| &row[k.clone()]);
            let widened = &mut scratch.widened[..k.len().div_ceil(8)];
            let (mut rows, mut done) = (Some(rows), 0);
            while done < n {
                let x = &x[done * cols..];
                ahead.ask(&w[first], done / T, &x[first], t);
                let rows = match rows.take() {
                    Some(rows) => Rows::Native(rows, widened),
                    None => Rows::Widened(widened),
                };
                done += tile(rows, Tokens { x, cols, block: k.clone() }, &mut sums[done..]);
            }
        }
    }
    for (t, sums) in sums.chunks_exact(n).enumerate() {
        let rows = R.min(w.len() / cols - t * R);
        for (i, sums) in sums.iter().enumerate() {
            write(sums, &mut y[i * n_rows + t * R..][..rows]);
        }
    }
}

/// Memory that is read after a block of columns of a tile's rows and of tokens; it need not exist.
struct Ahead<const R: usize, const T: usize> {
    cols: usize,
    /// Columns of the block.
    step: usize,
    /// Elements from the tokens' columns to what comes next.
    x: usize,
    /// Lines of a row that one tile of tokens asks for.
    w_share: usize,
    /// Lines of a token that one tile of rows asks for.
    x_share: usize,
}

impl<const R: usize, const T: usize> Ahead<R, T> {
    /// The shares of tile `w_tile` of those with these rows, which asks for other rows, and `x_tile`
    /// of those with these tokens.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn ask<W>(&self, w: &W, w_tile: usize, x: &f32, x_tile: usize) {
        let line_elements = LINE / size_of::<W>();
        for line in w_tile * self.w_share..(w_tile + 1) * self.w_share {
            if line * line_elements < self.step {
                for r in R..2 * R {
                    let elements = r * self.cols + line * line_elements;
                    prefetch::<_MM_HINT_T1, _>(w, elements * size_of::<W>());
                }
            }
        }
        for line in x_tile * self.x_share..(x_tile + 1) * self.x_share {
            for i in 0..T {
                let elements = self.x + i * self.cols;
                prefetch::<_MM_HINT_T1, _>(x, elements * size_of::<f32>() + line * LINE);
            }
        }
    }
}

/// The totals of partial sums.
#[inline]
#[target_feature(enable = "avx2")]
fn write<const R: usize>(sums: &Group<R>, y: &mut [f32]) {
    const { assert!(4 < R && R <= 8) }
    let mut some = [_mm256_setzero_ps(); 8];
    for r in 0..R {
        some[r] = load_ps(&sums[r]);
    }
    let mut lanes = [0.0; 8];
    let halves = some.as_chunks().0.iter().zip(lanes.as_chunks_mut().0);
    for (sums, lanes) in halves {
        store_16_ps(lanes, sum_4_ps(sums));
    }
    match y.first_chunk_mut::<R>() {
        Some(y) => y.copy_from_slice(&lanes[..R]),
        None => y.copy_from_slice(&lanes[..y.len()]),
    }
}

/// The first `n` groups of eight columns of rows, or of tokens.
#[inline(always)]
pub(in crate::isa) fn groups_of<'a, W, const N: usize>(
    rows: &[&'a [W]; N],
    n: usize,
) -> [&'a [[W; 8]]; N] {
    let mut groups: [&[[W; 8]]; N] = [&[]; N];
    for r in 0..N {
        groups[r] = &rows[r].as_chunks().0[..n];
    }
    groups
}

/// The groups of whole columns of native rows, to be widened, and one of the columns behind them,
/// widened and filled up with zeros.
#[inline(always)]
pub(in crate::isa) fn widen_tail<'a, W: Float, const R: usize>(
    rows: &[&[W]; R],
    widened: &'a mut [Group<R>],
) -> (&'a mut [Group<R>], Option<&'a Group<R>>) {
    let (widened, tail) = widened.split_at_mut(rows[0].len() / 8);
    let tail = tail.first_mut().map(|tail| {
        *tail = [[0.0; 8]; R];
        for (to, row) in tail.iter_mut().zip(rows) {
            for (to, w) in to.iter_mut().zip(&row[8 * widened.len()..]) {
                *to = w.to_f32();
            }
        }
        &*tail
    });
    (widened, tail)
}
