//! Dots of float rows: float weights by tokens.
//!
//! Tiles of four rows by up to three vectors. An element is one register of eight partial sums
//! over k and [`crate::float`]'s tree at the end, whatever the tile; the twelve chains of a tile
//! hide the latency of each other.

use super::mem::{load_ps, load_some, prefetch, store, store_16_ps};
use super::sum::sum_4_ps;
use crate::act::Acts;
use crate::block::{Bf16, F16, F32, Float, as_blocks};
use std::arch::x86_64::*;

/// Rows of a tile.
pub(super) const R: usize = 4;
/// Vectors of a tile.
const T: usize = 3;

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

/// Float weights; `buffer` holds [`R`] rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn matmul<W: Float>(
    w: &[u8],
    acts: &Acts<'_>,
    buffer: &mut [F32],
    y: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    dots(as_blocks::<W>(w), acts.x, acts.plan.cols, 1.0, buffer, y, widen);
}

/// `out[i][r] = scale * (x[i] . w[r])`; `w: [n_rows][cols]`, `x: [n][cols]`, `out: [n][n_rows]`.
///
/// More than one tile of vectors finds the rows widened in `buffer`, if it holds [`R`] of them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dots<W: Float>(
    w: &[W],
    x: &[f32],
    cols: usize,
    scale: f32,
    buffer: &mut [F32],
    out: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let (n, n_rows) = (x.len() / cols, w.len() / cols);
    if n == 1 {
        return dots_of_one(w, x, scale, out, widen);
    }
    for first in (0..n_rows).step_by(R) {
        let rows = &w[first * cols..n_rows.min(first + R) * cols];
        if n > T && buffer.len() >= R * cols {
            let buffer = &mut buffer[..rows.len()];
            let ((groups, tail), (to, to_tail)) = (rows.as_chunks(), buffer.as_chunks_mut());
            for (to, group) in to.iter_mut().zip(groups) {
                store::<[F32; 8]>(to, _mm256_castps_si256(widen(group)));
            }
            for (to, w) in to_tail.iter_mut().zip(tail) {
                *to = F32::from_f32(w.to_f32());
            }
            some_rows(&*buffer, first, n_rows, x, cols, scale, out, |w| widen_f32(w));
        } else {
            some_rows(rows, first, n_rows, x, cols, scale, out, |w| widen(w));
        }
    }
}

/// [`dots`] of one vector: eight rows in flight, and memory asked ahead, as its speed decides.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_of_one<W: Float>(
    w: &[W],
    x: &[f32],
    scale: f32,
    out: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let scale = _mm_set1_ps(scale);
    for (w, out) in w.chunks(2 * R * x.len()).zip(out.chunks_mut(2 * R)) {
        let [sums] = tile::<W, { 2 * R }, 1>(some_of(w, x.len()), [x], &widen);
        let (low, high) = sums.split_at(R);
        let mut lanes = [0.0; 2 * R];
        for (lanes, sums) in lanes.as_chunks_mut().0.iter_mut().zip([low, high]) {
            let sums = sums.first_chunk().expect("half of the rows");
            store_16_ps(lanes, _mm_mul_ps(sum_4_ps(sums), scale));
        }
        match out.first_chunk_mut() {
            Some(out) => *out = lanes,
            None => out.copy_from_slice(&lanes[..out.len()]),
        }
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

/// Up to [`R`] rows by all vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
#[expect(clippy::too_many_arguments, reason = "shapes and slices of one product")]
fn some_rows<W: Float>(
    rows: &[W],
    first: usize,
    n_rows: usize,
    x: &[f32],
    cols: usize,
    scale: f32,
    out: &mut [f32],
    widen: impl Fn(&[W; 8]) -> __m256,
) {
    let n = rows.len() / cols;
    let rows: [&[W]; R] = some_of(rows, cols);
    let tiles = x.chunks(T * cols).zip(out.chunks_mut(T * n_rows));
    for (x, out) in tiles {
        let vector = |i: usize| &x[i * cols..][..cols];
        let mut write = |i: usize, sums: [__m256; R]| {
            let sums = _mm_mul_ps(sum_4_ps(&sums), _mm_set1_ps(scale));
            let out = &mut out[i * n_rows + first..];
            match out.first_chunk_mut::<R>() {
                Some(out) if n == R => store_16_ps(out, sums),
                _ => {
                    let mut lanes = [0.0; R];
                    store_16_ps(&mut lanes, sums);
                    out[..n].copy_from_slice(&lanes[..n]);
                }
            }
        };
        match x.len() / cols {
            1 => {
                let [a] = tile(rows, [vector(0)], &widen);
                write(0, a);
            }
            2 => {
                let [a, b] = tile(rows, [vector(0), vector(1)], &widen);
                write(0, a);
                write(1, b);
            }
            _ => {
                let [a, b, c] = tile(rows, [vector(0), vector(1), vector(2)], &widen);
                write(0, a);
                write(1, b);
                write(2, c);
            }
        }
    }
}

/// The eight partial sums of `ROWS` rows by `N` vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<W: Float, const ROWS: usize, const N: usize>(
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
