//! Dots of float rows: float weights by tokens.
//!
//! Tiles of four rows by up to two vectors. An element is eight partial sums over k and
//! [`crate::float`]'s tree at the end, whatever the tile.

use super::vector::*;
use crate::act::Acts;
use crate::block::{Float, as_blocks};

/// Rows of a tile.
const R: usize = 4;

/// Float weights.
#[inline(always)]
pub(super) fn matmul<W: Float + Widen>(w: &[u8], n_rows: usize, acts: &Acts<'_>, y: &mut [f32]) {
    let (w, cols) = (as_blocks::<W>(w), acts.plan.cols);
    for (first, rows) in w.chunks(R * cols).enumerate() {
        // Missing rows repeat the last one.
        let last = rows.len() / cols - 1;
        let rows = [0, 1, 2, 3].map(|r: usize| &rows[r.min(last) * cols..][..cols]);
        let mut write = |t: usize, sums: [F32x8; R]| {
            let mut lanes = [0.0; R];
            store_f32(&mut lanes, sum_4(sums));
            y[t * n_rows + first * R..][..last + 1].copy_from_slice(&lanes[..last + 1]);
        };
        for (t, x) in acts.x.chunks(2 * cols).enumerate() {
            if x.len() == cols {
                let [a] = tile(rows, [x]);
                write(2 * t, a);
            } else {
                let [a, b] = tile(rows, [&x[..cols], &x[cols..]]);
                write(2 * t, a);
                write(2 * t + 1, b);
            }
        }
    }
}

/// The eight partial sums of four rows by `N` vectors.
#[inline(always)]
fn tile<W: Float + Widen, const N: usize>(rows: [&[W]; R], x: [&[f32]; N]) -> [[F32x8; R]; N] {
    let n = x[0].len() / 8;
    let (w, v) = (rows.map(|w| &w.as_chunks().0[..n]), x.map(|x| &x.as_chunks().0[..n]));
    let mut sums = [[F32x8::splat(0.0); R]; N];
    for g in 0..n {
        let x = v.map(|x| F32x8::load(&x[g]));
        for r in 0..R {
            let w = W::widen(&w[r][g]);
            for i in 0..N {
                sums[i][r] = sums[i][r].plus_product(w, x[i]);
            }
        }
    }
    if 8 * n < x[0].len() {
        for r in 0..R {
            let mut w = [0.0; 8];
            for (to, w) in w.iter_mut().zip(&rows[r][8 * n..]) {
                *to = w.to_f32();
            }
            for i in 0..N {
                let x = F32x8::load_some(&x[i][8 * n..]);
                sums[i][r] = sums[i][r].plus_product(F32x8::load(&w), x);
            }
        }
    }
    sums
}
