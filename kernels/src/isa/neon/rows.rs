//! Decoding: one to four tokens against native blocks, four weight rows at a time.
//!
//! The four rows' partial sums of a block meet in one register, a row per lane, where the f32
//! chains of the specification run. So a chain step serves four rows, and weights are unpacked once
//! for all tokens of the call.
//!
//! Rows that four does not divide are filled up with repetitions of the last one.

use super::dot::Dot;
use super::unpack::{Codes16, Codes32, Codes256, FourScales};
use super::vector::*;
use crate::act::Acts;
use crate::block::as_blocks;
use crate::isa::tokens::Rows;

/// Weight rows in flight.
const ROWS: usize = 4;

/// Rows `first..first + 4`, the last one repeated behind the end.
#[inline(always)]
fn four_rows<B>(w: &[B], first: usize, blocks: usize) -> [&[B]; ROWS] {
    let last = w.len() / blocks - 1;
    let row = |r: usize| &w[(first + r).min(last) * blocks..][..blocks];
    [row(0), row(1), row(2), row(3)]
}

/// Writes the four rows of every token.
#[inline(always)]
fn write<const N: usize>(acc: [float32x4_t; N], first: usize, n_rows: usize, y: &mut [f32]) {
    for (acc, y) in acc.into_iter().zip(y.chunks_exact_mut(n_rows)) {
        let y = &mut y[first..n_rows.min(first + ROWS)];
        match y.first_chunk_mut() {
            Some(y) => store_f32(y, acc),
            None => {
                let mut lanes = [0.0; ROWS];
                store_f32(&mut lanes, acc);
                y.copy_from_slice(&lanes[..y.len()]);
            }
        }
    }
}

/// `codes . q` of halves `FROM..TO` of each row. Loops instead of closures, which would not have
/// the level's features: each product would be a call.
#[inline(always)]
fn isums<D: Dot, const FROM: usize, const TO: usize>(
    codes: &[[int8x16_t; 2]; ROWS],
    q: [int8x16_t; 2],
) -> float32x4_t {
    let mut sums = [vdupq_n_s32(0); ROWS];
    for r in 0..ROWS {
        for half in FROM..TO {
            sums[r] = D::dot(sums[r], codes[r][half], q[half]);
        }
    }
    let [a, b, c, d] = sums;
    vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)))
}

/// The body for each of the `N <= 4` tokens, written out: a loop of this size the compiler would
/// leave one, and its sums in memory.
macro_rules! each_token {
    ($N:ident, |$t:ident| $body:block) => {
        each_token!(@ $N, $t, $body, 0 1 2 3)
    };
    (@ $N:ident, $t:ident, $body:block, $($token:literal)*) => {$(
        if $token < $N {
            let $t = $token;
            $body
        }
    )*};
}

/// Types in blocks of 32.
#[inline(always)]
pub(in crate::isa) fn blocks_32<B: Codes32, D: Dot, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    first_token: usize,
    y: &mut [f32],
) {
    let (n, w) = (acts.plan.blocks(), as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
    for first in (0..n_rows).step_by(ROWS) {
        let (rows, x) = (four_rows(w, first, n), x.as_long_as(n));
        let mut acc = [vdupq_n_f32(0.0); N];
        for b in 0..n {
            let blocks = rows.map(|row| &row[b]);
            let mut codes = [[vdupq_n_s8(0); 2]; ROWS];
            for r in 0..ROWS {
                codes[r] = blocks[r].codes();
            }
            let [d, m] = B::scales(blocks);
            each_token!(N, |t| {
                let (q, _) = x.q[t][b].as_chunks();
                let q = [load(&q[0]), load(&q[1])];
                let da = vdupq_n_f32(x.d[t][b]);
                acc[t] = vfmaq_f32(acc[t], vmulq_f32(d, da), isums::<D, 0, 2>(&codes, q));
                if B::HAS_MIN {
                    let [s, s_2] = x.s[t][b];
                    let sum = vdupq_n_f32(f32::from(s + s_2));
                    acc[t] = vfmaq_f32(acc[t], vmulq_f32(m, da), sum);
                }
            });
        }
        write(acc, first, n_rows, y);
    }
}

/// Types in blocks of several times 32 with scales of their own.
#[inline(always)]
pub(in crate::isa) fn blocks_16<B: Codes16, D: Dot, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    first_token: usize,
    y: &mut [f32],
) {
    let parts = B::LEN / 32;
    let (n, w) = (acts.plan.blocks() / parts, as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
    for first in (0..n_rows).step_by(ROWS) {
        let rows = four_rows(w, first, n);
        let mut acc = [vdupq_n_f32(0.0); N];
        for b in 0..n {
            let blocks = rows.map(|row| &row[b]);
            let scales = B::scales(blocks);
            for j in 0..parts {
                let mut codes = [[vdupq_n_s8(0); 2]; ROWS];
                for r in 0..ROWS {
                    codes[r] = blocks[r].codes(j);
                }
                each_token!(N, |t| {
                    let (q, _) = x.q[t][parts * b + j].as_chunks();
                    let q = [load(&q[0]), load(&q[1])];
                    let da = vdupq_n_f32(x.d[t][parts * b + j]);
                    let (d, d_2) = (scales[2 * j], scales[2 * j + 1]);
                    acc[t] = vfmaq_f32(acc[t], vmulq_f32(d, da), isums::<D, 0, 1>(&codes, q));
                    acc[t] = vfmaq_f32(acc[t], vmulq_f32(d_2, da), isums::<D, 1, 2>(&codes, q));
                });
            }
        }
        write(acc, first, n_rows, y);
    }
}

/// Types in super-blocks of 256.
#[inline(always)]
pub(in crate::isa) fn blocks_256<B: Codes256, D: Dot, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    first_token: usize,
    y: &mut [f32],
) {
    let (n, w) = (acts.plan.blocks() / 8, as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
    let mut scales = FourScales::default();
    for first in (0..n_rows).step_by(ROWS) {
        let rows = four_rows(w, first, n);
        let mut acc = [vdupq_n_f32(0.0); N];
        for b in 0..n {
            let blocks = rows.map(|row| &row[b]);
            scales.set(blocks);
            let (mut products, mut mins) = ([vdupq_n_f32(0.0); N], [vdupq_n_f32(0.0); N]);
            for j in 0..8 {
                let mut codes = [[vdupq_n_s8(0); 2]; ROWS];
                for r in 0..ROWS {
                    codes[r] = blocks[r].codes(j);
                }
                each_token!(N, |t| {
                    let (q, _) = x.q[t][8 * b + j].as_chunks();
                    let q = [load(&q[0]), load(&q[1])];
                    let (da, [s, s_2]) = (x.d[t][8 * b + j], x.s[t][8 * b + j]);
                    let mut take = |min: &[f32; 4], sum: i16| {
                        let sum = vdupq_n_f32(da * f32::from(sum));
                        mins[t] = vfmaq_f32(mins[t], load_f32(min), sum);
                    };
                    // Small whole numbers: exact.
                    let isums = if B::GROUP == 32 {
                        if B::HAS_MIN {
                            take(&scales.mins[j], s + s_2);
                        }
                        vmulq_f32(isums::<D, 0, 2>(&codes, q), load_f32(&scales.scales[j]))
                    } else {
                        if B::HAS_MIN {
                            take(&scales.mins[2 * j], s);
                            take(&scales.mins[2 * j + 1], s_2);
                        }
                        let low = isums::<D, 0, 1>(&codes, q);
                        let low = vmulq_f32(low, load_f32(&scales.scales[2 * j]));
                        let high = isums::<D, 1, 2>(&codes, q);
                        vfmaq_f32(low, high, load_f32(&scales.scales[2 * j + 1]))
                    };
                    products[t] = vfmaq_f32(products[t], isums, vdupq_n_f32(da));
                });
            }
            for t in 0..N {
                acc[t] = vfmaq_f32(acc[t], load_f32(&scales.d), products[t]);
                if B::HAS_MIN {
                    acc[t] = vfmsq_f32(acc[t], load_f32(&scales.dmin), mins[t]);
                }
            }
        }
        write(acc, first, n_rows, y);
    }
}
