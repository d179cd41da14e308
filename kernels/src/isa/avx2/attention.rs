//! Products of a few rows with a page of keys or values: see [`crate::float::add_product_f32`].
//!
//! Tiles of up to six rows by 16 columns stay in twelve registers while `k` passes: two loads and
//! six broadcasts feed twelve `fmadd`s. One or two rows take 32 columns, to have as many chains in
//! flight as hide the latency. A page's rows are shorter than what a tile takes of them, so what is
//! to be read next is asked for a line per row.

use super::mem::{load_ps, store_ps};
use crate::block::Float;
use crate::float::Ahead;
use crate::float::attention::check_product;
use std::arch::x86_64::*;

/// Rows of a tile.
const N: usize = 6;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_product<B: Float>(
    n: usize,
    (a, a_stride): (&[f32], usize),
    b: &[B],
    cols: usize,
    ((c, c_stride), mut ahead): ((&mut [f32], usize), Ahead),
    widen: impl Fn(&[B; 8]) -> __m256,
) {
    check_product(n, (a.len(), a_stride), b.len(), cols, (c.len(), c_stride));
    if b.is_empty() {
        return;
    }
    for first in (0..n).step_by(N) {
        let (a, c) = ((&a[first * a_stride..], a_stride), (&mut c[first * c_stride..], c_stride));
        // The first rows ask for all of it.
        let c = (c, std::mem::replace(&mut ahead, Ahead::NONE));
        match n - first {
            1 => rows::<B, 1, 4>(a, b, cols, c, &widen),
            2 => rows::<B, 2, 4>(a, b, cols, c, &widen),
            3 => rows::<B, 3, 2>(a, b, cols, c, &widen),
            4 => rows::<B, 4, 2>(a, b, cols, c, &widen),
            5 => rows::<B, 5, 2>(a, b, cols, c, &widen),
            _ => rows::<B, N, 2>(a, b, cols, c, &widen),
        }
    }
}

/// Takes the first of `n` equal parts off; the last part is what is left.
fn take_part(ahead: &mut Ahead, n: usize) -> Ahead {
    let lines = ahead.lines.div_ceil(n);
    let part = Ahead { lines, ..*ahead };
    ahead.address = ahead.address.wrapping_add(lines * Ahead::LINE_BYTES);
    ahead.lines -= lines;
    part
}

/// `ROWS` rows, `8 * C` columns at a time, then eight, then single ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<B: Float, const ROWS: usize, const C: usize>(
    a: (&[f32], usize),
    b: &[B],
    cols: usize,
    ((c, c_stride), mut ahead): ((&mut [f32], usize), Ahead),
    widen: &impl Fn(&[B; 8]) -> __m256,
) {
    let k = b.len() / cols;
    let mut rows: [&[f32]; ROWS] = [&[]; ROWS];
    for i in 0..ROWS {
        rows[i] = &a.0[i * a.1..][..k];
    }
    let whole = cols / (8 * C) * (8 * C);
    let mut n_tiles = cols / (8 * C) + cols % (8 * C) / 8;
    let mut part = || {
        n_tiles -= 1;
        take_part(&mut ahead, n_tiles + 1)
    };
    for at in (0..whole).step_by(8 * C) {
        tile::<B, ROWS, C>(rows, b, cols, at, ((&mut *c, c_stride), part()), widen);
    }
    for at in (whole..cols / 8 * 8).step_by(8) {
        tile::<B, ROWS, 1>(rows, b, cols, at, ((&mut *c, c_stride), part()), widen);
    }
    for at in cols / 8 * 8..cols {
        for i in 0..ROWS {
            let c = &mut c[i * c_stride + at];
            for (a, b) in rows[i].iter().zip(b.chunks_exact(cols)) {
                *c = a.mul_add(b[at].to_f32(), *c);
            }
        }
    }
}

/// Columns `at..at + 8 * C`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<B: Float, const ROWS: usize, const C: usize>(
    rows: [&[f32]; ROWS],
    b: &[B],
    cols: usize,
    at: usize,
    ((c, c_stride), ahead): ((&mut [f32], usize), Ahead),
    widen: &impl Fn(&[B; 8]) -> __m256,
) {
    let mut sums = [[_mm256_setzero_ps(); C]; ROWS];
    for i in 0..ROWS {
        let (groups, _) = c[i * c_stride + at..][..8 * C].as_chunks::<8>();
        for j in 0..C {
            sums[i][j] = load_ps(&groups[j]);
        }
    }
    // Found with one check outside of the loop.
    let n = rows[0].len();
    let mut a: [&[f32]; ROWS] = [&[]; ROWS];
    for i in 0..ROWS {
        a[i] = &rows[i][..n];
    }
    let mut add = |k: usize, b: &[B]| {
        let (groups, _) = b[at..at + 8 * C].as_chunks::<8>();
        let mut b = [_mm256_setzero_ps(); C];
        for j in 0..C {
            b[j] = widen(&groups[j]);
        }
        for i in 0..ROWS {
            // By way of the load ports, not a shuffle.
            let a = _mm256_broadcast_ss(&a[i][k]);
            for j in 0..C {
                sums[i][j] = _mm256_fmadd_ps(a, b[j], sums[i][j]);
            }
        }
    };
    let mut rows = (0..n).zip(b.chunks_exact(cols));
    for (line, (k, b)) in ahead.zip(rows.by_ref()) {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
        add(k, b);
    }
    for (k, b) in rows {
        add(k, b);
    }
    for i in 0..ROWS {
        let (groups, _) = c[i * c_stride + at..][..8 * C].as_chunks_mut::<8>();
        for j in 0..C {
            store_ps(&mut groups[j], sums[i][j]);
        }
    }
}
