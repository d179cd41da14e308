//! Products of float rows: float weights by tokens.
//!
//! An element is one register of eight partial sums over k and [`crate::float`]'s tree at the end,
//! whatever the tile. So nothing can be broadcast, and a tile of rows by tokens loads as many
//! registers as it has rows and tokens: [`R`] by [`T`] loads eight for twelve multiplications,
//! which two loads a cycle can bring from L1, but nothing slower can.
//!
//! Blocking: [`BLOCK_COLS`] columns of a tile's rows are widened into L1, in the order they are
//! read, by the first tile they are used in; there they stay while the tokens of a block stream by
//! from L2, where they stay for the next rows. So all partial sums are in memory, read and written
//! once per block of columns. A few tokens take smaller tiles that widen whatever they read.

use super::mem::{load_ps, load_some, prefetch, store_16_ps, store_ps};
use super::sum::sum_4_ps;
use crate::act::Acts;
use crate::block::{Bf16, F16, F32, Float, as_blocks};
use std::arch::x86_64::*;

/// Rows of a tile of a few tokens.
const FEW_ROWS: usize = 4;
/// Tokens that are a few.
const FEW: usize = 3;

/// Rows of a tile.
const R: usize = 6;
/// Tokens of a tile: with twelve sums there are 16 registers.
const T: usize = 2;
/// Rows that tokens stay in L2 for: tokens come from L3 once for sixteen tiles.
const BLOCK_ROWS: usize = 16 * R;
/// Most columns of a block: a tile's rows take 18 of 32 KiB of L1, the tokens of two tiles 12.
const BLOCK_COLS: usize = 768;
/// Tokens of a block: 192 KiB, with as much of sums, in an L2 of 512 KiB.
const BLOCK_TOKENS: usize = 64;

/// Floats of a cache line.
const LINE: usize = 16;

/// Eight columns, or the eight partial sums with one token, of the rows of a tile.
type Group = [[f32; 8]; R];

/// Where a thread widens weights, and sums.
#[derive(Debug)]
pub(crate) struct DenseScratch {
    widened: Vec<Group>,
    sums: Vec<Group>,
}

impl DenseScratch {
    pub fn new() -> DenseScratch {
        DenseScratch {
            widened: vec![Group::default(); BLOCK_COLS / 8],
            sums: vec![Group::default(); BLOCK_ROWS / R * BLOCK_TOKENS],
        }
    }
}

/// Eight numbers of a row, exactly.
#[inline]
#[target_feature(enable = "avx")]
pub(in crate::isa) fn widen_f32(w: &[F32; 8]) -> __m256 {
    _mm256_castsi256_ps(super::mem::load(w))
}

/// Eight numbers of a row, exactly.
#[inline]
#[target_feature(enable = "avx,f16c")]
pub(in crate::isa) fn widen_f16(w: &[F16; 8]) -> __m256 {
    _mm256_cvtph_ps(super::mem::load_16(w))
}

/// Eight numbers of a row, exactly.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn widen_bf16(w: &[Bf16; 8]) -> __m256 {
    let bits = _mm256_cvtepu16_epi32(super::mem::load_16(w));
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
}

/// Float weights.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn matmul<W: Float>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut DenseScratch,
    y: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let (w, x, cols) = (as_blocks::<W>(w), acts.x, acts.plan.cols);
    match acts.plan.n_tokens {
        1 => one(w, x, y, widen),
        2..=FEW => {
            for (tile, rows) in w.chunks(FEW_ROWS * cols).enumerate() {
                few(rows, x, cols, n_rows, &mut y[tile * FEW_ROWS..], &widen);
            }
        }
        _ => {
            for (b, w) in w.chunks(BLOCK_ROWS * cols).enumerate() {
                let tokens = x.chunks(BLOCK_TOKENS * cols);
                for (x, y) in tokens.zip(y.chunks_mut(BLOCK_TOKENS * n_rows)) {
                    block(w, x, cols, n_rows, scratch, &mut y[b * BLOCK_ROWS..], &widen);
                }
            }
        }
    }
}

/// A block of rows by one of tokens, whose outputs are `n_rows` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn block<W: Float>(
    w: &[W],
    x: &[f32],
    cols: usize,
    n_rows: usize,
    scratch: &mut DenseScratch,
    y: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let n = x.len() / cols;
    let tiles = (w.len() / cols).div_ceil(R);
    let sums = &mut scratch.sums[..tiles * n];
    sums.fill(Group::default());
    // Blocks of one length.
    let step = cols.div_ceil(cols.div_ceil(BLOCK_COLS)).next_multiple_of(8);
    for first in (0..cols).step_by(step) {
        let k = first..cols.min(first + step);
        // The same tokens' next columns, or the next tokens' first; either need not exist.
        let next = if k.end < cols { step } else { n * cols - first };
        let lines = k.len().div_ceil(LINE * tiles);
        for (tile, (w, sums)) in w.chunks(R * cols).zip(sums.chunks_exact_mut(n)).enumerate() {
            let rows = some_of::<W, R>(w, cols).map(|row| &row[k.clone()]);
            let widened = &mut scratch.widened[..k.len().div_ceil(8)];
            let (pairs, last) = sums.as_chunks_mut::<T>();
            for (i, sums) in pairs.iter_mut().enumerate() {
                let (x, other) = x[i * T * cols..].split_at(cols);
                for line in tile * lines..(tile + 1) * lines {
                    let ahead = 4 * (next + line * LINE);
                    prefetch::<_MM_HINT_T1, _>(&x[first], ahead);
                    prefetch::<_MM_HINT_T1, _>(&other[first], ahead);
                }
                let x = [&x[k.clone()], &other[k.clone()]];
                match i {
                    0 => widening_tile(rows, widened, x, sums, &widen),
                    _ => widened_tile(widened, x, sums),
                }
            }
            if let [sums] = last {
                let x = &x[(n - 1) * cols..][k.clone()];
                widened_tile(widened, [x], std::array::from_mut(sums));
            }
        }
    }
    for (tile, sums) in sums.chunks_exact(n).enumerate() {
        let rows = R.min(w.len() / cols - tile * R);
        for (i, sums) in sums.iter().enumerate() {
            write(sums, &mut y[i * n_rows + tile * R..][..rows]);
        }
    }
}

/// The totals of partial sums.
#[inline]
#[target_feature(enable = "avx2")]
fn write(sums: &Group, y: &mut [f32]) {
    let mut lanes = [0.0; 8];
    let (low, high) = lanes.split_at_mut(4);
    let mut s = [_mm256_setzero_ps(); R];
    for r in 0..R {
        s[r] = load_ps(&sums[r]);
    }
    let [a, b, c, d, e, f] = s;
    store_16_ps(low.first_chunk_mut().expect("a half"), sum_4_ps(&[a, b, c, d]));
    store_16_ps(high.first_chunk_mut().expect("a half"), sum_4_ps(&[e, f, e, f]));
    match y.first_chunk_mut::<R>() {
        Some(y) => y.copy_from_slice(&lanes[..R]),
        None => y.copy_from_slice(&lanes[..y.len()]),
    }
}

/// A tile whose rows are not widened yet, but then are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widening_tile<W: Float>(
    rows: [&[W]; R],
    widened: &mut [Group],
    x: [&[f32]; T],
    sums: &mut [Group; T],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let groups = rows[0].len() / 8;
    let (widened, tail) = widened.split_at_mut(groups);
    let tail = tail.first_mut().map(|tail| {
        for r in 0..R {
            tail[r] = [0.0; 8];
            for (to, w) in tail[r].iter_mut().zip(&rows[r][8 * groups..]) {
                *to = w.to_f32();
            }
        }
        &*tail
    });
    let mut w: [&[[W; 8]]; R] = [&[]; R];
    for r in 0..R {
        w[r] = &rows[r].as_chunks().0[..groups];
    }
    let column = |g: usize, r: usize| {
        let w = widen(&w[r][g]);
        store_ps(&mut widened[g][r], w);
        w
    };
    tile(groups, column, tail, x, sums);
}

/// A tile of widened rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widened_tile<const N: usize>(widened: &[Group], x: [&[f32]; N], sums: &mut [Group; N]) {
    let (w, tail) = widened.split_at(x[0].len() / 8);
    tile(w.len(), |g, r| load_ps(&w[g][r]), tail.first(), x, sums);
}

/// Adds to the partial sums of [`R`] rows with `N` tokens. `w(g, r)` are the columns of group `g` of
/// row `r`; `tail` those after whole groups, filled up with zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const N: usize>(
    groups: usize,
    mut w: impl FnMut(usize, usize) -> __m256,
    tail: Option<&Group>,
    x: [&[f32]; N],
    sums: &mut [Group; N],
) {
    let mut tokens: [&[[f32; 8]]; N] = [&[]; N];
    let mut acc = [[_mm256_setzero_ps(); R]; N];
    for i in 0..N {
        tokens[i] = &x[i].as_chunks().0[..groups];
        for r in 0..R {
            acc[i][r] = load_ps(&sums[i][r]);
        }
    }
    for g in 0..groups {
        let mut x = [_mm256_setzero_ps(); N];
        for i in 0..N {
            x[i] = load_ps(&tokens[i][g]);
        }
        for r in 0..R {
            let w = w(g, r);
            for i in 0..N {
                acc[i][r] = _mm256_fmadd_ps(w, x[i], acc[i][r]);
            }
        }
    }
    for i in 0..N {
        if let Some(tail) = tail {
            let x = load_some(&x[i][8 * groups..]);
            for r in 0..R {
                acc[i][r] = _mm256_fmadd_ps(load_ps(&tail[r]), x, acc[i][r]);
            }
        }
        for r in 0..R {
            store_ps(&mut sums[i][r], acc[i][r]);
        }
    }
}

/// One token: eight rows in flight, and memory asked ahead, as its speed decides.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn one<W: Float>(w: &[W], x: &[f32], y: &mut [f32], widen: impl Fn(&[W; 8]) -> __m256) {
    for (w, y) in w.chunks(2 * FEW_ROWS * x.len()).zip(y.chunks_mut(2 * FEW_ROWS)) {
        let [sums] = small_tile::<W, { 2 * FEW_ROWS }, 1>(some_of(w, x.len()), [x], &widen);
        let (low, high) = sums.split_at(FEW_ROWS);
        let mut lanes = [0.0; 2 * FEW_ROWS];
        for (lanes, sums) in lanes.as_chunks_mut().0.iter_mut().zip([low, high]) {
            store_16_ps(lanes, sum_4_ps(sums.first_chunk().expect("half of the rows")));
        }
        match y.first_chunk_mut() {
            Some(y) => *y = lanes,
            None => y.copy_from_slice(&lanes[..y.len()]),
        }
    }
}

/// Up to [`FEW_ROWS`] rows by up to [`FEW`] tokens, whose outputs are `n_rows` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few<W: Float>(
    w: &[W],
    x: &[f32],
    cols: usize,
    n_rows: usize,
    y: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let n = w.len() / cols;
    let rows: [&[W]; FEW_ROWS] = some_of(w, cols);
    let token = |i: usize| &x[i * cols..][..cols];
    let mut write = |i: usize, sums: [__m256; FEW_ROWS]| {
        let mut lanes = [0.0; FEW_ROWS];
        store_16_ps(&mut lanes, sum_4_ps(&sums));
        y[i * n_rows..][..n].copy_from_slice(&lanes[..n]);
    };
    if x.len() / cols == 2 {
        let [a, b] = small_tile(rows, [token(0), token(1)], &widen);
        write(0, a);
        write(1, b);
    } else {
        let [a, b, c] = small_tile(rows, [token(0), token(1), token(2)], &widen);
        write(0, a);
        write(1, b);
        write(2, c);
    }
}

/// Up to `N` rows, of which missing ones repeat the last one.
#[inline(always)]
fn some_of<W, const N: usize>(rows: &[W], cols: usize) -> [&[W]; N] {
    let mut some: [&[W]; N] = [&[]; N];
    for r in 0..N {
        some[r] = &rows[r.min(rows.len() / cols - 1) * cols..][..cols];
    }
    some
}

/// The eight partial sums of `ROWS` rows by `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn small_tile<W: Float, const ROWS: usize, const N: usize>(
    rows: [&[W]; ROWS],
    x: [&[f32]; N],
    widen: impl Fn(&[W; 8]) -> __m256,
) -> [[__m256; ROWS]; N] {
    let groups = rows[0].len() / 8;
    let mut w: [&[[W; 8]]; ROWS] = [&[]; ROWS];
    let mut v: [&[[f32; 8]]; N] = [&[]; N];
    for r in 0..ROWS {
        w[r] = &rows[r].as_chunks().0[..groups];
    }
    for i in 0..N {
        v[i] = &x[i].as_chunks().0[..groups];
    }
    let mut sums = [[_mm256_setzero_ps(); ROWS]; N];
    for g in 0..groups {
        if N == 1 {
            // A share of the next rows, which need not exist; not into L1, where eight rows of a
            // power of two of bytes fall into one set.
            let share = ROWS * size_of::<[W; 8]>();
            for line in (0..share).step_by(64) {
                prefetch::<_MM_HINT_T1, _>(
                    &w[0][0],
                    ROWS * size_of_val(rows[0]) + g * share + line,
                );
            }
        }
        // Inputs stay in registers, weights pass through one: with twelve sums there are 16.
        let mut x = [_mm256_setzero_ps(); N];
        for i in 0..N {
            x[i] = load_ps(&v[i][g]);
        }
        for r in 0..ROWS {
            let w = widen(&w[r][g]);
            for i in 0..N {
                sums[i][r] = _mm256_fmadd_ps(w, x[i], sums[i][r]);
            }
        }
    }
    if 8 * groups < rows[0].len() {
        for r in 0..ROWS {
            let mut w = [0.0; 8];
            for (to, w) in w.iter_mut().zip(&rows[r][8 * groups..]) {
                *to = w.to_f32();
            }
            for i in 0..N {
                let x = load_some(&x[i][8 * groups..]);
                sums[i][r] = _mm256_fmadd_ps(load_ps(&w), x, sums[i][r]);
            }
        }
    }
    sums
}
