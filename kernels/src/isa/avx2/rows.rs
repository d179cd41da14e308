//! Decoding: one to four tokens against native blocks, eight weight rows at a time.
//!
//! The eight rows' partial sums of a block meet in one register ([`super::sum`]), a row per lane,
//! where the f32 chains of the specification run. So a chain step serves eight rows and chains
//! never wait for each other; weights are unpacked once for all tokens of the call.
//!
//! Rows that eight does not divide are filled up with repetitions of the last one.

use super::mem::{load, prefetch, store};
use super::sum::{cross_128, pairs_8, pairs_by_half, sum_8};
use super::unpack::{Codes32, Codes256, SCALE_PAIRS, Scales, even_odd, halves};
use crate::act::{Acts, SUMS_256};
use crate::block::{BlockQ8_0, F16, as_blocks};
use std::arch::x86_64::*;

/// Weight rows in flight.
const ROWS: usize = 8;

/// Rows `first..first + 8`, the last one repeated behind the end.
#[inline(always)]
fn eight_rows<B>(w: &[B], first: usize, blocks: usize) -> [&[B]; ROWS] {
    let last = w.len() / blocks - 1;
    let mut rows: [&[B]; ROWS] = [&[]; ROWS];
    for r in 0..ROWS {
        rows[r] = &w[(first + r).min(last) * blocks..][..blocks];
    }
    rows
}

/// The activations of `N` tokens, block by block.
struct Rows<'a, const LEN: usize, const SUMS: usize, const N: usize> {
    q: [&'a [[i8; LEN]]; N],
    d: [&'a [f32]; N],
    s: [&'a [[i16; SUMS]]; N],
}

impl<'a, const LEN: usize, const SUMS: usize, const N: usize> Rows<'a, LEN, SUMS, N> {
    #[inline(always)]
    fn new(acts: &Acts<'a>, n: usize) -> Self {
        let plan = acts.plan;
        let mut rows = Rows { q: [&[]; N], d: [&[]; N], s: [&[]; N] };
        for t in 0..N {
            rows.q[t] = &acts.q[t * plan.q_len()..].as_chunks().0[..n];
            rows.d[t] = &acts.d[t * plan.d_len()..][..n];
            rows.s[t] = &acts.s[t * plan.s_len()..].as_chunks().0[..n];
        }
        rows
    }
}

/// Asks for blocks `i..i + count` of the next eight rows, in memory's order. The hardware follows
/// each row by itself, and rows are too short for it to learn. Measured: into L1 is better for the
/// short steps of 4- and 5-bit blocks of 32, into L2 for all others.
#[inline]
#[target_feature(enable = "sse")]
fn prefetch_next<const HINT: i32, B>(rows: &[&[B]; ROWS], i: usize, count: usize) {
    let first = ROWS * size_of_val(rows[0]) + i * size_of::<B>();
    for line in (0..count * size_of::<B>()).step_by(64) {
        prefetch::<HINT, _>(&rows[0][0], first + line);
    }
}

/// Writes the eight rows of every token.
#[inline]
#[target_feature(enable = "avx2")]
fn write<const N: usize>(acc: [__m256; N], first: usize, n_rows: usize, y: &mut [f32]) {
    let rows = ROWS.min(n_rows - first);
    for (acc, y) in acc.into_iter().zip(y.chunks_exact_mut(n_rows)) {
        super::mem::store_some(&mut y[first..first + rows], acc);
    }
}

/// Types in blocks of 32 with codes of at most 5 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_32<B: Codes32, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
) {
    let (n, w) = (acts.plan.blocks(), as_blocks::<B>(w));
    let x = Rows::<32, 1, N>::new(acts, n);
    let ones = _mm256_set1_epi16(1);
    for first in (0..n_rows).step_by(ROWS) {
        let rows = eight_rows(w, first, n);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..n {
            prefetch_next::<_MM_HINT_T0, _>(&rows, b * ROWS, ROWS);
            let mut code = [_mm256_setzero_si256(); ROWS];
            let (mut d, mut m) = ([F16([0; 2]); ROWS], [F16([0; 2]); ROWS]);
            for r in 0..ROWS {
                code[r] = codes(&rows[r][b]);
                [d[r], m[r]] = rows[r][b].scales();
            }
            let (d, m) = (halves(d), if B::HAS_MIN { halves(m) } else { _mm256_setzero_ps() });
            for t in 0..N {
                let q = load(&x.q[t][b]);
                let mut p = [_mm256_setzero_si256(); ROWS];
                for r in 0..ROWS {
                    p[r] = _mm256_maddubs_epi16(code[r], q);
                }
                // A pair of products is at most 2 * 127 * MAX, and 8 of those must fit an i16.
                let isum = if B::MAX <= 15 {
                    _mm256_madd_epi16(pairs_8(&p), ones)
                } else {
                    let [a, b] = pairs_by_half(&p);
                    let (a, b) = (_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
                    let (straight, crossed) = cross_128(a, b);
                    _mm256_add_epi32(straight, crossed)
                };
                let sum = i32::from(x.s[t][b][0]);
                let isum = match B::OFFSET {
                    0 => isum,
                    offset => _mm256_sub_epi32(isum, _mm256_set1_epi32(offset * sum)),
                };
                let da = _mm256_set1_ps(x.d[t][b]);
                acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(d, da), _mm256_cvtepi32_ps(isum), acc[t]);
                if B::HAS_MIN {
                    let sum = _mm256_set1_ps(sum as f32);
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(m, da), sum, acc[t]);
                }
            }
        }
        write(acc, first, n_rows, y);
    }
}

/// Q8_0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_0<const N: usize>(w: &[u8], n_rows: usize, acts: &Acts<'_>, y: &mut [f32]) {
    let (n, w) = (acts.plan.blocks(), as_blocks::<BlockQ8_0>(w));
    let x = Rows::<32, 1, N>::new(acts, n);
    let ones = _mm256_set1_epi16(1);
    for first in (0..n_rows).step_by(ROWS) {
        let rows = eight_rows(w, first, n);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..n {
            prefetch_next::<_MM_HINT_T1, _>(&rows, b * ROWS, ROWS);
            let mut d = [F16([0; 2]); ROWS];
            for r in 0..ROWS {
                d[r] = rows[r][b].d;
            }
            let d = halves(d);
            for t in 0..N {
                let q = load(&x.q[t][b]);
                // |w| <= 128 is unsigned, its sign goes to q: at most 2 * 128 * 127 in an i16.
                let mut p = [_mm256_setzero_si256(); ROWS];
                for r in 0..ROWS {
                    let w = load(&rows[r][b].qs);
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
                    p[r] = _mm256_madd_epi16(pairs, ones);
                }
                let isum = sum_8(&p);
                let da = _mm256_set1_ps(x.d[t][b]);
                acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(d, da), _mm256_cvtepi32_ps(isum), acc[t]);
            }
        }
        write(acc, first, n_rows, y);
    }
}

/// Types in blocks of 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_256<B: Codes256, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    y: &mut [f32],
    unpack: impl Fn(&B) -> ([__m256i; 8], Scales),
) {
    let (n, w) = (acts.plan.blocks(), as_blocks::<B>(w));
    let x = Rows::<256, SUMS_256, N>::new(acts, n);
    // Shuffling by a mask it knows the compiler finds two instructions for one.
    let masks = std::hint::black_box(&SCALE_PAIRS);
    // Written whole for every block; out here, they are not cleared for it.
    let mut isums = [[[0; 8]; ROWS]; N];
    let mut msums = [[[0; 8]; ROWS]; N];
    let (mut d, mut dmin) = ([F16([0; 2]); ROWS], [F16([0; 2]); ROWS]);
    for first in (0..n_rows).step_by(ROWS) {
        let rows = eight_rows(w, first, n);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..n {
            for r in 0..ROWS {
                let block = &rows[r][b];
                prefetch_next::<_MM_HINT_T1, _>(&rows, b * ROWS + r, 1);
                let (codes, scales) = unpack(block);
                let ordered = even_odd(scales.scales);
                let mut p = [_mm256_setzero_si256(); N];
                for j in 0..8 {
                    let scale = _mm256_shuffle_epi8(ordered, load(&masks[j]));
                    for t in 0..N {
                        let products =
                            _mm256_maddubs_epi16(codes[j], load(&x.q[t][b].as_chunks::<32>().0[j]));
                        p[t] = _mm256_add_epi32(p[t], _mm256_madd_epi16(products, scale));
                    }
                }
                [d[r], dmin[r]] = block.d();
                for t in 0..N {
                    let s: &[i16; 16] = x.s[t][b].first_chunk().expect("24 sums");
                    let mut p = p[t];
                    if B::OFFSET != 0 {
                        let sums = _mm256_madd_epi16(scales.scales, load(s));
                        p = _mm256_sub_epi32(p, times::<B>(sums));
                    }
                    store(&mut isums[t][r], p);
                    if B::HAS_MIN {
                        store(&mut msums[t][r], _mm256_madd_epi16(scales.mins, load(s)));
                    }
                }
            }
            let (d, dmin) = (halves(d), halves(dmin));
            for t in 0..N {
                let da = _mm256_set1_ps(x.d[t][b]);
                let isum = _mm256_cvtepi32_ps(sum_8(&load_8(&isums[t])));
                acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(d, da), isum, acc[t]);
                if B::HAS_MIN {
                    let msum = _mm256_cvtepi32_ps(sum_8(&load_8(&msums[t])));
                    acc[t] = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, da), msum, acc[t]);
                }
            }
        }
        write(acc, first, n_rows, y);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_8(x: &[[i32; 8]; 8]) -> [__m256i; 8] {
    let mut out = [_mm256_setzero_si256(); 8];
    for i in 0..8 {
        out[i] = load(&x[i]);
    }
    out
}

/// `x * OFFSET`, a power of two.
#[inline]
#[target_feature(enable = "avx2")]
fn times<B: Codes256>(x: __m256i) -> __m256i {
    match B::OFFSET {
        4 => _mm256_slli_epi32::<2>(x),
        32 => _mm256_slli_epi32::<5>(x),
        offset => _mm256_mullo_epi32(x, _mm256_set1_epi32(offset)),
    }
}
