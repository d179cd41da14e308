//! Products of a few rows with a page of keys or values: see [`crate::float::add_product_f32`].
//!
//! Tiles of up to four rows by 16 columns stay in sixteen registers while `k` passes. One or two
//! rows take 32 columns, to have as many chains in flight as hide the latency.

use super::vector::{F32x8, Widen};
use crate::float::attention::check_product;
use crate::float::half_to_f32;

/// Rows of a tile.
const N: usize = 4;

pub(super) fn add_product_f32(
    n: usize,
    a: (&[f32], usize),
    b: &[f32],
    cols: usize,
    c: (&mut [f32], usize),
) {
    add_product(n, a, b, cols, c, |b| b);
}

pub(super) fn add_product_f16(
    n: usize,
    a: (&[f32], usize),
    b: &[u16],
    cols: usize,
    c: (&mut [f32], usize),
) {
    add_product(n, a, b, cols, c, half_to_f32);
}

#[inline(always)]
fn add_product<B: Copy + Widen>(
    n: usize,
    (a, a_stride): (&[f32], usize),
    b: &[B],
    cols: usize,
    (c, c_stride): (&mut [f32], usize),
    to_f32: fn(B) -> f32,
) {
    check_product(n, (a.len(), a_stride), b.len(), cols, (c.len(), c_stride));
    if b.is_empty() {
        return;
    }
    for first in (0..n).step_by(N) {
        let (a, c) = ((&a[first * a_stride..], a_stride), (&mut c[first * c_stride..], c_stride));
        match n - first {
            1 => rows::<B, 1, 4>(a, b, cols, c, to_f32),
            2 => rows::<B, 2, 4>(a, b, cols, c, to_f32),
            3 => rows::<B, 3, 2>(a, b, cols, c, to_f32),
            _ => rows::<B, N, 2>(a, b, cols, c, to_f32),
        }
    }
}

/// `ROWS` rows, `8 * C` columns at a time, then eight, then single ones.
fn rows<B: Copy + Widen, const ROWS: usize, const C: usize>(
    (a, a_stride): (&[f32], usize),
    b: &[B],
    cols: usize,
    (c, c_stride): (&mut [f32], usize),
    to_f32: fn(B) -> f32,
) {
    let k = b.len() / cols;
    let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &a[i * a_stride..][..k]);
    let whole = cols / (8 * C) * (8 * C);
    for at in (0..whole).step_by(8 * C) {
        tile::<B, ROWS, C>(rows, b, cols, at, (&mut *c, c_stride));
    }
    for at in (whole..cols / 8 * 8).step_by(8) {
        tile::<B, ROWS, 1>(rows, b, cols, at, (&mut *c, c_stride));
    }
    for at in cols / 8 * 8..cols {
        for (i, row) in rows.into_iter().enumerate() {
            let c = &mut c[i * c_stride + at];
            for (a, b) in row.iter().zip(b.chunks_exact(cols)) {
                *c = a.mul_add(to_f32(b[at]), *c);
            }
        }
    }
}

/// Columns `at..at + 8 * C`.
#[inline(always)]
fn tile<B: Widen, const ROWS: usize, const C: usize>(
    rows: [&[f32]; ROWS],
    b: &[B],
    cols: usize,
    at: usize,
    (c, c_stride): (&mut [f32], usize),
) {
    let mut sums = [[F32x8::splat(0.0); C]; ROWS];
    for i in 0..ROWS {
        let (groups, _) = c[i * c_stride + at..][..8 * C].as_chunks();
        for j in 0..C {
            sums[i][j] = F32x8::load(&groups[j]);
        }
    }
    // Found with one check outside of the loop.
    let n = rows[0].len();
    let a = rows.map(|row| &row[..n]);
    for (k, b) in (0..n).zip(b.chunks_exact(cols)) {
        let (groups, _) = b[at..at + 8 * C].as_chunks();
        let mut b = [F32x8::splat(0.0); C];
        for j in 0..C {
            b[j] = B::widen(&groups[j]);
        }
        for i in 0..ROWS {
            let a = F32x8::splat(a[i][k]);
            for j in 0..C {
                sums[i][j] = sums[i][j].plus_product(a, b[j]);
            }
        }
    }
    for i in 0..ROWS {
        let (groups, _) = c[i * c_stride + at..][..8 * C].as_chunks_mut();
        for j in 0..C {
            sums[i][j].store(&mut groups[j]);
        }
    }
}
