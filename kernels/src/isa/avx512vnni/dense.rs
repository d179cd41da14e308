//! Prefill of float weights: [`ROWS`] rows widened once per call, against tiles of tokens.
//!
//! A register has eight partial sums each of two rows, which are those of AVX2's kernels: so an
//! element is added up in [`crate::float`]'s order. Tiles of eight rows by up to six tokens read
//! half as many bytes per product as AVX2's four by three, and inputs come from L2 or L3.

use super::VnniScratch;
use super::mem::load_ps;
use crate::act::Acts;
use crate::block::{Float, as_blocks};
use crate::isa::avx2::mem::{load_some, store_16_ps};
use crate::isa::avx2::{self, sum::sum_4_ps};
use std::arch::x86_64::*;

/// Rows of a tile.
const ROWS: usize = 8;

/// Tokens up to which AVX2's kernels are faster: measured at 8, 24 and 512 on Zen 4.
pub(super) const FEW: usize = 24;

/// Eight columns of eight rows: registers of two rows.
pub(super) type Group = [[f32; 16]; ROWS / 2];

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
    let cols = acts.plan.cols;
    let buffer = &mut scratch.groups[..cols.div_ceil(8)];
    for (first, rows) in as_blocks::<W>(w).chunks(ROWS * cols).enumerate() {
        let n = rows.len() / cols;
        for r in 0..ROWS {
            // Missing rows repeat the last one.
            let (groups, tail) = rows[r.min(n - 1) * cols..][..cols].as_chunks();
            for (to, w) in buffer.iter_mut().zip(groups) {
                half_of(to, r, widen(w));
            }
            if !tail.is_empty() {
                let mut lanes = [0.0; 8];
                for (to, w) in lanes.iter_mut().zip(tail) {
                    *to = w.to_f32();
                }
                half_of(&mut buffer[cols / 8], r, avx2::mem::load_ps(&lanes));
            }
        }
        let (mut x, mut t) = (acts.x, 0);
        while !x.is_empty() {
            let left = x.len() / cols;
            let mut write = |t: usize, sums: &[f32; ROWS]| {
                y[t * n_rows + first * ROWS..][..n].copy_from_slice(&sums[..n]);
            };
            let done = match left {
                6.. => tile::<6>(buffer, x, cols, |i, sums| write(t + i, sums)),
                4.. => tile::<4>(buffer, x, cols, |i, sums| write(t + i, sums)),
                2.. => tile::<2>(buffer, x, cols, |i, sums| write(t + i, sums)),
                _ => tile::<1>(buffer, x, cols, |i, sums| write(t + i, sums)),
            };
            x = &x[done * cols..];
            t += done;
        }
    }
}

/// Eight columns of row `r`.
#[inline]
#[target_feature(enable = "avx512f")]
fn half_of(group: &mut Group, r: usize, w: __m256) {
    let (halves, _) = group[r / 2].as_chunks_mut();
    avx2::mem::store_ps(&mut halves[r % 2], w);
}

/// All rows by the first `N` tokens of `x`; gives `write` the products of each, returns `N`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn tile<const N: usize>(
    w: &[Group],
    x: &[f32],
    cols: usize,
    mut write: impl FnMut(usize, &[f32; ROWS]),
) -> usize {
    let mut tokens: [&[[f32; 8]]; N] = [&[]; N];
    for i in 0..N {
        tokens[i] = &x[i * cols..][..cols].as_chunks().0[..cols / 8];
    }
    let mut sums = [[_mm512_setzero_ps(); ROWS / 2]; N];
    for (g, group) in w[..cols / 8].iter().enumerate() {
        let mut w = [_mm512_setzero_ps(); ROWS / 2];
        for r in 0..ROWS / 2 {
            w[r] = load_ps(&group[r]);
        }
        for i in 0..N {
            let x = _mm512_broadcast_f32x8(avx2::mem::load_ps(&tokens[i][g]));
            for r in 0..ROWS / 2 {
                sums[i][r] = _mm512_fmadd_ps(w[r], x, sums[i][r]);
            }
        }
    }
    for i in 0..N {
        let tail = &x[i * cols..][..cols][cols / 8 * 8..];
        if !tail.is_empty() {
            let x = _mm512_broadcast_f32x8(load_some(tail));
            for r in 0..ROWS / 2 {
                sums[i][r] = _mm512_fmadd_ps(load_ps(&w[cols / 8][r]), x, sums[i][r]);
            }
        }
        let mut lanes = [0.0; ROWS];
        let (lanes_4, _) = lanes.as_chunks_mut::<4>();
        for (q, lanes) in lanes_4.iter_mut().enumerate() {
            let (a, b) = (sums[i][2 * q], sums[i][2 * q + 1]);
            store_16_ps(
                lanes,
                sum_4_ps(&[
                    _mm512_castps512_ps256(a),
                    _mm512_extractf32x8_ps::<1>(a),
                    _mm512_castps512_ps256(b),
                    _mm512_extractf32x8_ps::<1>(b),
                ]),
            );
        }
        write(i, &lanes);
    }
    N
}
