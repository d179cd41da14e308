//! Decoding: one to four tokens against native blocks, eight weight rows at a time.
//!
//! The eight rows' partial sums of a block meet in one register ([`super::sum`]), a row per lane,
//! where the f32 chains of the specification run. So a chain step serves eight rows and chains
//! never wait for each other; weights are unpacked once for all tokens of the call.
//!
//! Rows that eight does not divide are filled up with repetitions of the last one.

use super::dot::Dot;
use super::mem::{fence, load, load_ps, prefetch, store_ps};
use super::sum::{cross_128, pairs_4, pairs_8, pairs_by_half, sum_4, sum_8};
use super::unpack::{
    Codes16, Codes32, Codes256, EightScales, Signed256, Wide256, halves, halves_swapped,
    pair_order, scales_8,
};
use crate::act::{Acts, SUMS};
use crate::block::{Block, F16, as_blocks};
use crate::isa::tokens::Rows;
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
    first_token: usize,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
) {
    let (n, w) = (acts.plan.blocks(), as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
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
            let d = scales_8::<B>(d);
            let m = if B::HAS_MIN { halves(m) } else { _mm256_setzero_ps() };
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
                let [s, s_2] = x.s[t][b];
                let sum = i32::from(s) + i32::from(s_2);
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

/// Types in blocks of several times 32 with codes of at most 5 bits; `scales` are those of eight
/// blocks, see [`Codes16::scale_of`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_16<B: Codes16, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    first_token: usize,
    y: &mut [f32],
    codes: impl Fn(&B, usize) -> __m256i,
    scales: impl Fn(&[&B; ROWS]) -> [__m256; 4],
) {
    const { assert!(8 * 127 * B::MAX <= i16::MAX as i32, "eight products fit an i16") }
    let (n, w) = (acts.plan.cols / B::LEN, as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
    let ones = _mm256_set1_epi16(1);
    for first in (0..n_rows).step_by(ROWS) {
        let rows = eight_rows(w, first, n);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..n {
            prefetch_next::<_MM_HINT_T1, _>(&rows, b * ROWS, ROWS);
            let mut blocks = [&rows[0][b]; ROWS];
            for r in 1..ROWS {
                blocks[r] = &rows[r][b];
            }
            let d = scales(&blocks);
            for j in 0..B::PARTS {
                let mut code = [_mm256_setzero_si256(); ROWS];
                for r in 0..ROWS {
                    code[r] = codes(blocks[r], j);
                }
                let i = b * B::PARTS + j;
                for t in 0..N {
                    let q = load(&x.q[t][i]);
                    let mut p = [_mm256_setzero_si256(); ROWS];
                    for r in 0..ROWS {
                        p[r] = _mm256_maddubs_epi16(code[r], q);
                    }
                    let [low, high] = pairs_by_half(&p);
                    let low = _mm256_madd_epi16(low, ones);
                    let isums = halves_swapped([low, _mm256_madd_epi16(high, ones)]);
                    let da = _mm256_set1_ps(x.d[t][i]);
                    for half in 0..2 {
                        let offset = B::OFFSET * i32::from(x.s[t][i][half]);
                        let isum = _mm256_sub_epi32(isums[half], _mm256_set1_epi32(offset));
                        let d = _mm256_mul_ps(d[B::scale_of(j, half)], da);
                        acc[t] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(isum), acc[t]);
                    }
                }
            }
        }
        write(acc, first, n_rows, y);
    }
}

/// Types in blocks of 32 with signed codes of 8 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn wide_32<B: Block, D: Dot, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    first_token: usize,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
    scale: impl Fn(&B) -> F16,
) {
    let (n, w) = (acts.plan.blocks(), as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
    for first in (0..n_rows).step_by(ROWS) {
        let rows = eight_rows(w, first, n);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..n {
            prefetch_next::<_MM_HINT_T1, _>(&rows, b * ROWS, ROWS);
            let mut d = [F16([0; 2]); ROWS];
            for r in 0..ROWS {
                d[r] = scale(&rows[r][b]);
            }
            let d = halves(d);
            for t in 0..N {
                let q = load(&x.q[t][b]);
                let mut p = [_mm256_setzero_si256(); ROWS];
                for r in 0..ROWS {
                    // |w| <= 128 is unsigned and its sign goes to q: at most 2 * 128 * 127 in a pair.
                    let w = codes(&rows[r][b]);
                    let (w, q) = (_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
                    p[r] = D::dot(_mm256_setzero_si256(), w, q);
                }
                let isum = sum_8(&p);
                let da = _mm256_set1_ps(x.d[t][b]);
                acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(d, da), _mm256_cvtepi32_ps(isum), acc[t]);
            }
        }
        write(acc, first, n_rows, y);
    }
}

/// Types in super-blocks of 256 with signed codes and no minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn wide_256<B: Signed256, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    first_token: usize,
    y: &mut [f32],
    unpack: impl Fn(&B, &mut Wide256),
) {
    const { assert!(!B::HAS_MIN) }
    let (n, w) = (acts.plan.blocks() / 8, as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
    let (mut blocks, order) = ([Wide256::default(); ROWS], pair_order());
    for first in (0..n_rows).step_by(ROWS) {
        let rows = eight_rows(w, first, n);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..n {
            prefetch_next::<_MM_HINT_T1, _>(&rows, b * ROWS, ROWS);
            let mut d = [0.0; ROWS];
            for r in 0..ROWS {
                unpack(&rows[r][b], &mut blocks[r]);
                d[r] = blocks[r].d;
            }
            let d = load_ps(&d);
            let mut sums = [_mm256_setzero_ps(); N];
            for i in 0..4 {
                for t in 0..N {
                    let q = [load(&x.q[t][8 * b + 2 * i]), load(&x.q[t][8 * b + 2 * i + 1])];
                    let q = halves_swapped(q);
                    let mut p = [_mm256_setzero_si256(); ROWS];
                    for r in 0..ROWS {
                        let block = &blocks[r];
                        let mut pairs = [_mm256_setzero_si256(); 2];
                        for half in 0..2 {
                            let q = _mm256_sign_epi8(q[half], load(&block.signs[i][half]));
                            let magnitudes = load(&block.magnitudes[i][half]);
                            pairs[half] = _mm256_maddubs_epi16(magnitudes, q);
                        }
                        let scale = |half| block.scale::<B>(i, half, order);
                        // Four products fit an i16 if the codes are small.
                        p[r] = if B::GROUP == 32 && 4 * B::MAX * 127 <= i16::MAX.into() {
                            _mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), scale(0))
                        } else {
                            let first = _mm256_madd_epi16(pairs[0], scale(0));
                            _mm256_add_epi32(first, _mm256_madd_epi16(pairs[1], scale(1)))
                        };
                    }
                    // Four rows' sums of the first 32 elements, then of the second, in each.
                    let isums = [sum_4(p[0], p[1], p[2], p[3]), sum_4(p[4], p[5], p[6], p[7])];
                    let isums = halves_swapped(isums);
                    for k in 0..2 {
                        let da = _mm256_set1_ps(x.d[t][8 * b + 2 * i + k]);
                        sums[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isums[k]), da, sums[t]);
                    }
                }
            }
            for t in 0..N {
                acc[t] = _mm256_fmadd_ps(d, sums[t], acc[t]);
            }
        }
        write(acc, first, n_rows, y);
    }
}

/// Types in super-blocks of 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_256<B: Codes256, const N: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    first_token: usize,
    y: &mut [f32],
    codes: impl Fn(&B, usize) -> __m256i,
    scales: impl Fn(&[&B; ROWS]) -> EightScales,
) {
    let (n, w) = (acts.plan.blocks() / 8, as_blocks::<B>(w));
    let x = Rows::<N>::new(acts, first_token);
    // Shuffling by masks it knows the compiler finds two instructions for one.
    let masks = std::hint::black_box(&MASKS);
    for first in (0..n_rows).step_by(ROWS) {
        let rows = eight_rows(w, first, n);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..n {
            let mut blocks = [&rows[0][b]; ROWS];
            for r in 1..ROWS {
                blocks[r] = &rows[r][b];
            }
            let scales = scales(&blocks);
            let mut tokens = [Token::default(); N];
            for t in 0..N {
                let (q, _) = x.q[t][8 * b..][..8].as_chunks();
                let (d, _) = x.d[t][8 * b..][..8].as_chunks();
                tokens[t] = Token { q: &q[0], d: &d[0], s: [[0.0; 8]; 2] };
                if B::HAS_MIN {
                    let (s, _) = x.s[t][8 * b..][..8].as_chunks();
                    tokens[t].s = scaled_sums::<B>(&s[0], &d[0]);
                }
            }
            // From memory they are spread over the lanes by the load.
            let tokens = std::hint::black_box(&tokens);
            let mut sums = [[_mm256_setzero_ps(); 2]; N];
            macro_rules! planes {
                ($($i:literal)*) => {$(
                    prefetch_next::<_MM_HINT_T1, _>(&rows, b * ROWS + $i * PLANES, PLANES);
                    fence();
                    planes::<B, N, $i>(&blocks, &scales, tokens, &mut sums, masks, &codes);
                )*};
            }
            planes!(0 1 2 3);
            for t in 0..N {
                let [products, mins] = sums[t];
                acc[t] = _mm256_fmadd_ps(scales.d, products, acc[t]);
                if B::HAS_MIN {
                    acc[t] = _mm256_fnmadd_ps(scales.dmin, mins, acc[t]);
                }
            }
        }
        write(acc, first, n_rows, y);
    }
}

/// 256 activations of one token.
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [[i8; 32]; 8],
    d: &'a [f32; 8],
    /// The sum of the codes times their scale, of each group that has a minimum.
    s: [[f32; 8]; 2],
}

impl Default for Token<'_> {
    fn default() -> Self {
        Token { q: &[[0; 32]; 8], d: &[0.0; 8], s: [[0.0; 8]; 2] }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn scaled_sums<B: Codes256>(s: &[[i16; SUMS]; 8], d: &[f32; 8]) -> [[f32; 8]; 2] {
    let (mut out, s, d) = ([[0.0; 8]; 2], load(s), load_ps(d));
    if B::GROUP == 32 {
        let sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(s, _mm256_set1_epi16(1)));
        store_ps(&mut out[0], _mm256_mul_ps(sums, d));
    } else {
        // Those of the first halves of 32, then those of the second.
        let first = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(s));
        let second = _mm256_srai_epi32::<16>(s);
        store_ps(&mut out[0], _mm256_mul_ps(_mm256_cvtepi32_ps(first), d));
        store_ps(&mut out[1], _mm256_mul_ps(_mm256_cvtepi32_ps(second), d));
    }
    out
}

/// Groups of 32 elements that are taken together: as they come of the same bytes, these are loaded
/// once.
const PLANES: usize = 2;

/// Elements `64 * I..64 * I + 64` of eight super-blocks: two steps of the chain of the products and
/// of that of the minimums, for `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn planes<B: Codes256, const N: usize, const I: usize>(
    blocks: &[&B; ROWS],
    scales: &EightScales,
    tokens: &[Token<'_>; N],
    sums: &mut [[__m256; 2]; N],
    masks: &Masks,
    codes: &impl Fn(&B, usize) -> __m256i,
) {
    let mut pairs = [[[_mm256_setzero_si256(); 2]; PLANES]; N];
    for half in 0..2 {
        for plane in 0..PLANES {
            let j = I * PLANES + plane;
            let mut code = [_mm256_setzero_si256(); 4];
            for r in 0..4 {
                code[r] = codes(blocks[4 * half + r], j);
            }
            for t in 0..N {
                let q = load(&tokens[t].q[j]);
                let mut p = [_mm256_setzero_si256(); 4];
                for r in 0..4 {
                    p[r] = _mm256_maddubs_epi16(code[r], q);
                }
                pairs[t][plane][half] = pairs_4(p[0], p[1], p[2], p[3]);
            }
        }
    }
    for plane in 0..PLANES {
        let j = I * PLANES + plane;
        let factors = Factors::new::<B>(scales, j, masks);
        for t in 0..N {
            step::<B>(pairs[t][plane], &tokens[t], j, &factors, &mut sums[t]);
        }
    }
}

/// The scales and minimums of one group of 32 of eight rows.
struct Factors {
    /// Scales as pairs of the same i16, for what [`cross_128`] makes of the halves of 32 elements.
    straight: __m256i,
    crossed: __m256i,
    /// Minimums of the 32, or of either half.
    mins: [__m256; 2],
}

impl Factors {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new<B: Codes256>(scales: &EightScales, j: usize, masks: &Masks) -> Factors {
        let scale = |word: usize, mask| _mm256_shuffle_epi8(scales.scales[word], load(mask));
        let min = |word: usize, byte: usize| {
            let min = _mm256_shuffle_epi8(scales.mins[word], load(&masks.min[byte]));
            _mm256_cvtepi32_ps(min)
        };
        if B::ONE_SCALE {
            let (one, none) = (_mm256_set1_epi16(1), _mm256_setzero_ps());
            Factors { straight: one, crossed: one, mins: [none; 2] }
        } else if B::GROUP == 32 {
            let (word, byte) = (j / 4, j % 4);
            let scale = scale(word, &masks.scale[byte]);
            let mins = [min(word, byte), _mm256_setzero_ps()];
            Factors { straight: scale, crossed: scale, mins }
        } else {
            let (word, byte) = (j / 2, j % 2 * 2);
            let [straight, crossed] = &masks.crossing[j % 2];
            Factors {
                // Scales may be negative.
                straight: _mm256_srai_epi16::<8>(scale(word, straight)),
                crossed: _mm256_srai_epi16::<8>(scale(word, crossed)),
                mins: [min(word, byte), min(word, byte + 1)],
            }
        }
    }
}

/// A step of both chains of one token.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn step<B: Codes256>(
    [mut a, mut b]: [__m256i; 2],
    token: &Token<'_>,
    j: usize,
    factors: &Factors,
    [products, mins]: &mut [__m256; 2],
) {
    if B::OFFSET != 0 {
        let offset = offset::<B>(load(&token.q[j]));
        a = _mm256_sub_epi16(a, offset);
        b = _mm256_sub_epi16(b, offset);
    }
    // Eight pairs of products fit an i16 if the codes are at most 15; four if they are at most 32
    // once the offset is off.
    let isum = if B::GROUP == 32 && B::MAX <= 15 {
        let (straight, crossed) = cross_128(a, b);
        _mm256_madd_epi16(_mm256_add_epi16(straight, crossed), factors.straight)
    } else {
        let (straight, crossed) = cross_128(a, b);
        let straight = _mm256_madd_epi16(straight, factors.straight);
        _mm256_add_epi32(straight, _mm256_madd_epi16(crossed, factors.crossed))
    };
    let da = _mm256_set1_ps(token.d[j]);
    *products = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), da, *products);
    if B::HAS_MIN {
        let [first, second] = token.s;
        *mins = _mm256_fmadd_ps(factors.mins[0], _mm256_set1_ps(first[j]), *mins);
        if B::GROUP == 16 {
            *mins = _mm256_fmadd_ps(factors.mins[1], _mm256_set1_ps(second[j]), *mins);
        }
    }
}

/// `OFFSET * q` as [`pairs_by_half`] would add it up, the same for every row.
#[inline]
#[target_feature(enable = "avx2")]
fn offset<B: Codes256>(q: __m256i) -> __m256i {
    let x = _mm256_maddubs_epi16(_mm256_set1_epi8(B::OFFSET as i8), q);
    let x = _mm256_add_epi16(x, _mm256_shuffle_epi32::<0b01_00_11_10>(x));
    _mm256_add_epi16(x, _mm256_shuffle_epi32::<0b10_11_00_01>(x))
}

/// Byte shuffles within words.
struct Masks {
    /// Byte `i` to pairs of the same i16.
    scale: [[u8; 32]; 4],
    /// Byte `2i` of the low half's words and `2i + 1` of the high half's, to the upper bytes of
    /// pairs of the same i16; then the other way round.
    crossing: [[[u8; 32]; 2]; 2],
    /// Byte `i` to an i32.
    min: [[u8; 32]; 4],
}

static MASKS: Masks = {
    const NONE: u8 = 0x80;
    let mut masks =
        Masks { scale: [[NONE; 32]; 4], crossing: [[[NONE; 32]; 2]; 2], min: [[NONE; 32]; 4] };
    let mut word = 0;
    while word < 8 {
        // Shuffles see the 16 bytes of each half.
        let (at, source, high) = (4 * word, 4 * (word % 4), word / 4);
        let mut i = 0;
        while i < 4 {
            let byte = (source + i) as u8;
            masks.min[i][at] = byte;
            masks.scale[i][at] = byte;
            masks.scale[i][at + 2] = byte;
            let crossing = &mut masks.crossing[i / 2][(i % 2) ^ high];
            crossing[at + 1] = byte;
            crossing[at + 3] = byte;
            i += 1;
        }
        word += 1;
    }
    masks
};
