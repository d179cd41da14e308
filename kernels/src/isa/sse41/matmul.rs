//! Matrix products: four weight rows at a time, a row per lane, against every token of the call.
//!
//! Blocks of four rows are unpacked once for all tokens; sums stay in the output, which for a
//! handful of rows is in L1. One loop serves both layouts of activations: out of a panel a token's
//! block is gathered, eight words, and used four times.
//!
//! Rows that four does not divide are filled up with repetitions of the last one.

use super::fma::fma_ps;
use super::mem::{load, load_ps, store_ps};
use crate::act::{Acts, Layout, PANEL_TOKENS, PanelOrder, SUMS};
use crate::block::{
    Block16, Block32, Block256, Float, Unpacked16, Unpacked32, Unpacked256, as_blocks,
};
use std::arch::x86_64::*;

/// Weight rows in flight.
const ROWS: usize = 4;

/// Weights in blocks of 32.
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn blocks_32<B: Block32>(w: &[u8], n_rows: usize, acts: &Acts<'_>, y: &mut [f32]) {
    let (w, n) = (as_blocks::<B>(w), acts.plan.blocks());
    y.fill(0.0);
    for first in (0..n_rows).step_by(ROWS) {
        for b in 0..n {
            let unpack = |r: usize| w[(first + r).min(n_rows - 1) * n + b].unpack();
            let rows = [unpack(0), unpack(1), unpack(2), unpack(3)];
            let d = load_ps(&[rows[0].d, rows[1].d, rows[2].d, rows[3].d]);
            let m = load_ps(&[rows[0].m, rows[1].m, rows[2].m, rows[3].m]);
            for t in 0..acts.plan.n_tokens {
                let act = Act::new(acts, t, b);
                let da = _mm_set1_ps(act.d);
                let y = &mut y[t * n_rows + first..(t + 1) * n_rows];
                let mut acc = fma_ps(_mm_mul_ps(d, da), isums_32(&rows, &act), lanes(y));
                if B::HAS_MIN {
                    acc = fma_ps(_mm_mul_ps(m, da), _mm_set1_ps(act.sum()), acc);
                }
                set_lanes(y, acc);
            }
        }
    }
}

/// Weights in blocks of several times 32.
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn blocks_16<B: Block16>(w: &[u8], n_rows: usize, acts: &Acts<'_>, y: &mut [f32]) {
    let (w, parts) = (as_blocks::<B>(w), B::LEN / 32);
    let n = acts.plan.blocks() / parts;
    y.fill(0.0);
    for first in (0..n_rows).step_by(ROWS) {
        for b in 0..acts.plan.blocks() {
            let unpack =
                |r: usize| w[(first + r).min(n_rows - 1) * n + b / parts].unpack(b % parts);
            let rows = [unpack(0), unpack(1), unpack(2), unpack(3)];
            for t in 0..acts.plan.n_tokens {
                let act = Act::new(acts, t, b);
                let da = _mm_set1_ps(act.d);
                let y = &mut y[t * n_rows + first..(t + 1) * n_rows];
                let mut acc = lanes(y);
                for half in 0..2 {
                    let d = load_ps(&[0, 1, 2, 3].map(|r: usize| rows[r].d[half]));
                    acc = fma_ps(_mm_mul_ps(d, da), isums_16(&rows, half, &act), acc);
                }
                set_lanes(y, acc);
            }
        }
    }
}

/// Weights in super-blocks of 256.
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn blocks_256<B: Block256>(w: &[u8], n_rows: usize, acts: &Acts<'_>, y: &mut [f32]) {
    let (w, n) = (as_blocks::<B>(w), acts.plan.blocks() / 8);
    y.fill(0.0);
    for first in (0..n_rows).step_by(ROWS) {
        for b in 0..n {
            let unpack = |r: usize| w[(first + r).min(n_rows - 1) * n + b].unpack();
            let rows = [unpack(0), unpack(1), unpack(2), unpack(3)];
            let d = load_ps(&[rows[0].d, rows[1].d, rows[2].d, rows[3].d]);
            let dmin = load_ps(&[rows[0].dmin, rows[1].dmin, rows[2].dmin, rows[3].dmin]);
            let dmin = _mm_xor_ps(dmin, _mm_set1_ps(-0.0));
            for t in 0..acts.plan.n_tokens {
                let (mut products, mut mins) = (_mm_setzero_ps(), _mm_setzero_ps());
                for j in 0..8 {
                    let act = Act::new(acts, t, 8 * b + j);
                    let isums = isums_256(&rows, j, &act);
                    products = fma_ps(isums, _mm_set1_ps(act.d), products);
                    for g in 0..if B::HAS_MIN { 32 / B::GROUP } else { 0 } {
                        let sum = if B::GROUP == 32 { act.sum() } else { f32::from(act.sums[g]) };
                        mins = fma_ps(mins_of(&rows, 2 * j + g), _mm_set1_ps(act.d * sum), mins);
                    }
                }
                let y = &mut y[t * n_rows + first..(t + 1) * n_rows];
                let acc = fma_ps(d, products, lanes(y));
                set_lanes(y, if B::HAS_MIN { fma_ps(dmin, mins, acc) } else { acc });
            }
        }
    }
}

/// Float weights.
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn float<W: Float>(w: &[u8], n_rows: usize, acts: &Acts<'_>, y: &mut [f32]) {
    let cols = acts.plan.cols;
    for (r, row) in as_blocks::<W>(w).chunks_exact(cols).enumerate() {
        for (t, x) in acts.x.chunks_exact(cols).enumerate() {
            y[t * n_rows + r] = super::float::dot_of(row, x, W::to_f32);
        }
    }
}

/// A block of one token's activations.
struct Act {
    q: [__m128i; 2],
    d: f32,
    sums: [i16; SUMS],
}

impl Act {
    /// [`Acts::block`] in registers.
    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn new(acts: &Acts<'_>, token: usize, block: usize) -> Act {
        let plan = acts.plan;
        let (s, _) = acts.s.as_chunks();
        if plan.layout() == Layout::Rows {
            let (q, _) = acts.q.as_chunks::<16>();
            let at = token * plan.blocks() + block;
            let q = [load(&q[2 * at]), load(&q[2 * at + 1])];
            return Act { q, d: acts.d[at], sums: s[at] };
        }
        if plan.order != PanelOrder::Plus128 {
            // The order of a level above, which lacks a kernel for this type.
            let block = acts.block(token, block);
            let (q, _) = block.q.as_chunks();
            return Act { q: [load(&q[0]), load(&q[1])], d: block.d, sums: block.sums };
        }
        // Eight words per block and panel, each of all the panel's tokens.
        let (panel, lane) = (token / PANEL_TOKENS, token % PANEL_TOKENS);
        let at = panel * plan.blocks() + block;
        let (words, _) = acts.q.as_chunks::<4>();
        let words = &words[8 * at * PANEL_TOKENS..][..8 * PANEL_TOKENS];
        let word = |i: usize| i32::from_le_bytes(words[i * PANEL_TOKENS + lane].map(|q| q as u8));
        let plus_128 = _mm_set1_epi8(-128);
        let q = [
            _mm_xor_si128(_mm_setr_epi32(word(0), word(1), word(2), word(3)), plus_128),
            _mm_xor_si128(_mm_setr_epi32(word(4), word(5), word(6), word(7)), plus_128),
        ];
        let at = at * PANEL_TOKENS + lane;
        Act { q, d: acts.d[at], sums: s[at] }
    }

    /// The sum of all codes.
    fn sum(&self) -> f32 {
        f32::from(self.sums[0] + self.sums[1])
    }
}

/// Up to four sums.
#[inline]
#[target_feature(enable = "sse4.1")]
fn lanes(y: &[f32]) -> __m128 {
    match y.first_chunk() {
        Some(y) => load_ps(y),
        None => {
            let mut lanes = [0.0; ROWS];
            lanes[..y.len()].copy_from_slice(y);
            load_ps(&lanes)
        }
    }
}

/// The inverse of [`lanes`].
#[inline]
#[target_feature(enable = "sse4.1")]
fn set_lanes(y: &mut [f32], sums: __m128) {
    match y.first_chunk_mut() {
        Some(y) => store_ps(y, sums),
        None => {
            let mut lanes = [0.0; ROWS];
            store_ps(&mut lanes, sums);
            y.copy_from_slice(&lanes[..y.len()]);
        }
    }
}

/// [`Unpacked32::isum`] of four rows, as floats.
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn isums_32(rows: &[Unpacked32; ROWS], act: &Act) -> __m128 {
    let ones = _mm_set1_epi16(1);
    let mut sums = [_mm_setzero_si128(); ROWS];
    for (sums, row) in sums.iter_mut().zip(rows) {
        let codes = row.codes.as_chunks().0;
        let low = _mm_madd_epi16(pairs(&codes[0], act.q[0]), ones);
        let high = _mm_madd_epi16(pairs(&codes[1], act.q[1]), ones);
        *sums = _mm_add_epi32(low, high);
    }
    totals(&sums)
}

/// The sums of half `half` of the products of four rows, as floats.
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn isums_16(rows: &[Unpacked16; ROWS], half: usize, act: &Act) -> __m128 {
    let ones = _mm_set1_epi16(1);
    let mut sums = [_mm_setzero_si128(); ROWS];
    for (sums, row) in sums.iter_mut().zip(rows) {
        *sums = _mm_madd_epi16(pairs(&row.codes.as_chunks().0[half], act.q[half]), ones);
    }
    totals(&sums)
}

/// [`Unpacked256::isum`] of four rows, as floats.
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn isums_256(rows: &[Unpacked256; ROWS], j: usize, act: &Act) -> __m128 {
    let mut sums = [_mm_setzero_si128(); ROWS];
    for (sums, row) in sums.iter_mut().zip(rows) {
        let codes = &row.codes.as_chunks().0[2 * j..2 * j + 2];
        let scale = |i: usize| _mm_set1_epi16(row.scales[2 * j + i]);
        let low = _mm_madd_epi16(pairs(&codes[0], act.q[0]), scale(0));
        let high = _mm_madd_epi16(pairs(&codes[1], act.q[1]), scale(1));
        *sums = _mm_add_epi32(low, high);
    }
    totals(&sums)
}

/// Products, two to an i16. `|w| <= 128` is unsigned and its sign goes to `q`: at most
/// `2 * 128 * 127`.
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn pairs(w: &[i8; 16], q: __m128i) -> __m128i {
    let w = load(w);
    _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(q, w))
}

/// Lane `i` is the sum of the four i32 of `sums[i]`.
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn totals(sums: &[__m128i; ROWS]) -> __m128 {
    let (a, b) = (_mm_hadd_epi32(sums[0], sums[1]), _mm_hadd_epi32(sums[2], sums[3]));
    _mm_cvtepi32_ps(_mm_hadd_epi32(a, b))
}

/// Minimum `i` of four rows.
#[inline]
#[target_feature(enable = "sse4.1")]
fn mins_of(rows: &[Unpacked256; ROWS], i: usize) -> __m128 {
    let min = |r: usize| i32::from(rows[r].mins[i]);
    _mm_cvtepi32_ps(_mm_setr_epi32(min(0), min(1), min(2), min(3)))
}
