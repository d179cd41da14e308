//! Products of float rows: float weights by tokens.
//!
//! An element is one register of eight partial sums over k and [`crate::float`]'s tree at the end,
//! whatever the tile. So nothing can be broadcast, and a tile of rows by tokens loads as many
//! registers as it has rows and tokens: six by two are eight loads for twelve multiplications,
//! which is what L1 can bring, and nothing behind it: hence [`blocks`]. One token, or a few, take
//! smaller tiles that widen whatever they read.

pub(in crate::isa) mod blocks;

use super::mem::{load_ps, load_some, prefetch, store_16_ps, store_ps};
use super::sum::sum_4_ps;
use crate::act::Acts;
use crate::block::{Bf16, F16, F32, Float, as_blocks};
use blocks::{Group, Rows, Tokens, groups_of, some_of, widen_tail};
use std::arch::x86_64::*;

/// Rows of a tile of a few tokens.
const FEW_ROWS: usize = 4;
/// Tokens that are a few. With three all 16 registers are in use, where widening wants more.
pub(in crate::isa) const fn few_of<W>() -> usize {
    if size_of::<W>() == size_of::<f32>() { 3 } else { 2 }
}

/// Rows of a tile of many tokens.
const R: usize = 6;
/// Tokens of a tile: with twelve sums there are 16 registers.
const T: usize = 2;
/// Columns of a block: a tile's rows take 18 of 32 KiB of L1, the tokens of two tiles 12.
const BLOCK_COLS: usize = 768;

/// Scratch of a thread: widened weights and sums.
pub(in crate::isa) type DenseScratch = blocks::DenseScratch<R, BLOCK_COLS>;

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
        n if n <= few_of::<W>() => {
            for (tile, rows) in w.chunks(FEW_ROWS * cols).enumerate() {
                few(rows, x, cols, n_rows, &mut y[tile * FEW_ROWS..], &widen);
            }
        }
        _ => blocks::matmul::<W, R, T, BLOCK_COLS>(w, n_rows, acts, scratch, y, |rows, x, sums| {
            match sums {
                [_] => some::<W, 1>(rows, x, sums, &widen),
                _ => some::<W, T>(rows, x, sums, &widen),
            }
        }),
    }
}

/// A tile of `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn some<W: Float, const N: usize>(
    rows: Rows<'_, W, R>,
    x: Tokens<'_>,
    sums: &mut [Group<R>],
    widen: impl Fn(&[W; 8]) -> __m256,
) -> usize {
    let (x, sums) = (x.first::<N>(), sums.first_chunk_mut().expect("a sum per token"));
    match rows {
        Rows::Native(rows, widened) => {
            let (widened, tail) = widen_tail(&rows, widened);
            let groups = widened.len();
            let w = groups_of(&rows, groups);
            let column = |g: usize, r: usize| {
                let w = widen(&w[r][g]);
                store_ps(&mut widened[g][r], w);
                w
            };
            tile(groups, column, tail, x, sums);
        }
        Rows::Widened(w) => {
            let (w, tail) = w.split_at(x[0].len() / 8);
            tile(w.len(), |g, r| load_ps(&w[g][r]), tail.first(), x, sums);
        }
    }
    N
}

/// Adds to the partial sums of [`R`] rows with `N` tokens. `w(g, r)` are the columns of group `g` of
/// row `r`; `tail` those after whole groups, filled up with zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const N: usize>(
    groups: usize,
    mut w: impl FnMut(usize, usize) -> __m256,
    tail: Option<&Group<R>>,
    x: [&[f32]; N],
    sums: &mut [Group<R>; N],
) {
    let tokens = groups_of(&x, groups);
    let mut acc = [[_mm256_setzero_ps(); R]; N];
    for i in 0..N {
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

/// Up to [`FEW_ROWS`] rows by two or three tokens, whose outputs are `n_rows` apart.
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

/// The eight partial sums of `ROWS` rows by `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn small_tile<W: Float, const ROWS: usize, const N: usize>(
    rows: [&[W]; ROWS],
    x: [&[f32]; N],
    widen: impl Fn(&[W; 8]) -> __m256,
) -> [[__m256; ROWS]; N] {
    let groups = rows[0].len() / 8;
    let (w, v) = (groups_of(&rows, groups), groups_of(&x, groups));
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
