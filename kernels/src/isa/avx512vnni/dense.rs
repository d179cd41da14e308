//! Prefill of float weights.
//!
//! A register has eight partial sums each of two rows, which are those of AVX2's kernels: so an
//! element is added up in [`crate::float`]'s order. Tiles of eight rows by up to six tokens read
//! half as many bytes per product as AVX2's six by two, and can take their rows from L2, in longer
//! blocks of columns. The loops around them are AVX2's.

use super::VnniScratch;
use super::mem::{load_ps, store_ps};
use crate::act::Acts;
use crate::block::{Float, as_blocks};
use crate::isa::avx2;
use crate::isa::avx2::dense::blocks::{self, Group, Rows, Tokens, groups_of, widen_tail};
use crate::isa::avx2::mem::load_some;
use std::arch::x86_64::*;

/// Rows of a tile.
const R: usize = 8;
/// Registers of two rows.
const PAIRS: usize = R / 2;
/// Tokens of a tile: with 24 sums there are 32 registers.
const T: usize = 6;
/// Columns of a block: a tile's rows take 64 KiB of L2, which may be 1 MiB with all else.
const BLOCK_COLS: usize = 2048;

/// Scratch of a thread: widened weights and sums.
pub(super) type DenseScratch = blocks::DenseScratch<R, BLOCK_COLS>;

/// Tokens up to which AVX2's kernels are faster.
pub(super) use avx2::dense::few_of;

/// Float weights.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn matmul<W: Float>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut VnniScratch,
    y: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let (w, scratch) = (as_blocks(w), &mut scratch.dense);
    blocks::matmul::<W, R, T, BLOCK_COLS>(w, n_rows, acts, scratch, y, |rows, x, sums| {
        // Tiles of about one size: one of few tokens takes as long as a larger one.
        match sums.len().div_ceil(sums.len().div_ceil(T)) {
            T.. => some::<W, T>(rows, x, sums, &widen),
            5 => some::<W, 5>(rows, x, sums, &widen),
            4 => some::<W, 4>(rows, x, sums, &widen),
            3 => some::<W, 3>(rows, x, sums, &widen),
            2 => some::<W, 2>(rows, x, sums, &widen),
            _ => some::<W, 1>(rows, x, sums, &widen),
        }
    });
}

/// A tile of `N` tokens.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
            let column = |g: usize, p: usize| {
                let (low, high) = (widen(&w[2 * p][g]), widen(&w[2 * p + 1][g]));
                let w = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
                store_ps(&mut widened[g].as_flattened_mut().as_chunks_mut().0[p], w);
                w
            };
            tile(groups, column, tail, x, sums);
        }
        Rows::Widened(w) => {
            let (w, tail) = w.split_at(x[0].len() / 8);
            tile(w.len(), |g, p| pair(&w[g], p), tail.first(), x, sums);
        }
    }
    N
}

/// Adds to the partial sums of [`R`] rows with `N` tokens. `w(g, p)` are the columns of group `g` of
/// pair `p` of rows; `tail` those after whole groups, filled up with zeros.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn tile<const N: usize>(
    groups: usize,
    mut w: impl FnMut(usize, usize) -> __m512,
    tail: Option<&Group<R>>,
    x: [&[f32]; N],
    sums: &mut [Group<R>; N],
) {
    let tokens = groups_of(&x, groups);
    let mut acc = [[_mm512_setzero_ps(); PAIRS]; N];
    for i in 0..N {
        for p in 0..PAIRS {
            acc[i][p] = pair(&sums[i], p);
        }
    }
    for g in 0..groups {
        let mut rows = [_mm512_setzero_ps(); PAIRS];
        for p in 0..PAIRS {
            rows[p] = w(g, p);
        }
        for i in 0..N {
            let x = _mm512_broadcast_f32x8(avx2::mem::load_ps(&tokens[i][g]));
            for p in 0..PAIRS {
                acc[i][p] = _mm512_fmadd_ps(rows[p], x, acc[i][p]);
            }
        }
    }
    for i in 0..N {
        if let Some(tail) = tail {
            let x = _mm512_broadcast_f32x8(load_some(&x[i][8 * groups..]));
            for p in 0..PAIRS {
                acc[i][p] = _mm512_fmadd_ps(pair(tail, p), x, acc[i][p]);
            }
        }
        let (pairs, _) = sums[i].as_flattened_mut().as_chunks_mut();
        for p in 0..PAIRS {
            store_ps(&mut pairs[p], acc[i][p]);
        }
    }
}

/// Two rows of a group.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair(group: &Group<R>, p: usize) -> __m512 {
    load_ps(&group.as_flattened().as_chunks().0[p])
}
