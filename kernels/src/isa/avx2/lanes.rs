//! Decoding from interleaved rows ([`crate::interleave`]): one to eight tokens, a weight row per
//! lane.
//!
//! A register is the same four codes of eight rows, multiplied with a token's four codes that the
//! load spreads over the lanes; a row's products add up in its lane, and so does the f32 chain of
//! the specification. There are no shuffles but for scales, and memory is read as one stream.

use super::dot::Dot;
use super::lines::{AHEAD_BYTES, FAR_BYTES, leads_prefetcher, outruns_memory};
use super::mem::{fence, load, load_16, pin, prefetch, spread, store, store_ps};
use super::unpack::{
    Codes16, Codes32, EightScales, MXFP4_CODES, Unsigned256, exponents, of_expanded, shifted, trits,
};
use crate::act::SUMS;
use crate::block::expanded::{Codebook, Expanded};
use crate::block::{Block, iq4_nl};
use crate::interleave::{FIFTH, LaneOutputs};
use crate::isa::tokens::Rows;
use gguf_rs_lite::GgmlType;
use std::arch::x86_64::*;

/// Rows of a group.
pub(super) const LANES: usize = 8;

/// The `W` words of a block, of all rows, and what does not fill a word.
#[derive(Clone, Copy)]
pub(super) struct Words<'a, const W: usize> {
    words: &'a [[u8; 32]; W],
    rest: &'a [u8],
}

impl<'a, const W: usize> Words<'a, W> {
    #[inline(always)]
    fn new(group: &'a [u8], block: usize, bytes: usize) -> Self {
        let (words, rest) = group[block * LANES * bytes..][..LANES * bytes].split_at(32 * W);
        Words { words: words.as_chunks().0.first_chunk().expect("the words of a block"), rest }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn word(&self, w: usize) -> __m256i {
        load(&self.words[w])
    }

    /// Words `first..first + N`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn words_at<const N: usize>(&self, first: usize) -> [__m256i; N] {
        let mut words = [_mm256_setzero_si256(); N];
        for w in 0..N {
            words[w] = self.word(first + w);
        }
        words
    }

    /// The half of each row that is the rest of its block.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub fn half(&self) -> __m256 {
        _mm256_cvtph_ps(load_16(self.rest.first_chunk::<16>().expect("a half of each row")))
    }

    /// The scale that is the rest of each row's block, and no minimum.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub fn scale_alone(&self) -> [__m256; 2] {
        [self.half(), _mm256_setzero_ps()]
    }

    /// Powers of two, no minimum.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn exponent_alone(&self) -> [__m256; 2] {
        let bytes = self.rest.first_chunk().expect("a byte of each row");
        let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(*bytes));
        [exponents(_mm256_cvtepu8_epi32(bytes)), _mm256_setzero_ps()]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn nibbles(&self, w: usize, high: bool) -> __m256i {
        let word = if high { _mm256_srli_epi16::<4>(self.word(w)) } else { self.word(w) };
        _mm256_and_si256(word, _mm256_set1_epi8(15))
    }

    /// Elements `4g..4g + 4` of a block of 32 with nibbles from word `first` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn codes_4(&self, first: usize, g: usize) -> __m256i {
        self.nibbles(first + g % 4, g >= 4)
    }

    /// Codes of 5 bits: [`Words::codes_4`] with the fifth bits in the word before.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn codes_5(&self, first: usize, g: usize) -> __m256i {
        let fifth = shifted(self.word(first - 1), FIFTH[g] - 4);
        let fifth = _mm256_and_si256(fifth, _mm256_set1_epi8(16));
        _mm256_or_si256(self.codes_4(first, g), fifth)
    }

    /// The codes of MXFP4.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn mxfp4(&self, g: usize) -> __m256i {
        self.e2m1(g % 4, g >= 4)
    }

    /// The nibbles of a word as codes of MXFP4 and NVFP4.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn e2m1(&self, w: usize, high: bool) -> __m256i {
        let values = _mm256_broadcastsi128_si256(load_16(&MXFP4_CODES));
        _mm256_shuffle_epi8(values, self.nibbles(w, high))
    }

    /// Signed codes of IQ4_NL and IQ4_XS, by [`Words::codes_4`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn iq4(&self, first: usize, g: usize) -> __m256i {
        let values = _mm256_broadcastsi128_si256(load_16(&iq4_nl::VALUES));
        _mm256_shuffle_epi8(values, self.codes_4(first, g))
    }
}

/// Elements `32j + 4g..32j + 4g + 4` of blocks of several times 32; see the scalar `unpack` of each
/// type.
pub(super) mod parts {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn q1_0(b: &Words<'_, 4>, j: usize, g: usize) -> __m256i {
        _mm256_and_si256(shifted(b.word(j), FIFTH[g] - 1), _mm256_set1_epi8(2))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn q2_0(b: &Words<'_, 4>, j: usize, g: usize) -> __m256i {
        let plane = shifted(b.word(2 * j + g / 4), 2 * (g as i32 % 4));
        _mm256_and_si256(plane, _mm256_set1_epi8(3))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn nvfp4(b: &Words<'_, 9>, j: usize, g: usize) -> __m256i {
        b.e2m1(1 + 4 * j + g / 4 * 2 + g % 2, g % 4 >= 2)
    }
}

/// Elements `32j + 4g..32j + 4g + 4` of super-blocks; see the scalar `unpack` of each type.
pub(super) mod super_block {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn q2_k(b: &Words<'_, 21>, j: usize, g: usize) -> __m256i {
        let plane = shifted(b.word(4 + j / 4 * 8 + g), 2 * (j as i32 % 4));
        _mm256_and_si256(plane, _mm256_set1_epi8(3))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn q3_k(b: &Words<'_, 27>, j: usize, g: usize) -> __m256i {
        let low = shifted(b.word(8 + j / 4 * 8 + g), 2 * (j as i32 % 4));
        let third = _mm256_and_si256(shifted(b.word(g), j as i32 - 2), _mm256_set1_epi8(4));
        _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(3)), third)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn q4_k(b: &Words<'_, 36>, j: usize, g: usize) -> __m256i {
        b.nibbles(4 + j / 2 * 8 + g, j % 2 == 1)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn q5_k(b: &Words<'_, 44>, j: usize, g: usize) -> __m256i {
        let fifth = _mm256_and_si256(shifted(b.word(4 + g), j as i32 - 4), _mm256_set1_epi8(16));
        _mm256_or_si256(b.nibbles(12 + j / 2 * 8 + g, j % 2 == 1), fifth)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn q6_k(b: &Words<'_, 52>, j: usize, g: usize) -> __m256i {
        let (half, plane) = (j / 4, j % 4);
        let low = b.nibbles(16 * half + plane % 2 * 8 + g, plane >= 2);
        let top = shifted(b.word(32 + 8 * half + g), 2 * plane as i32 - 4);
        _mm256_or_si256(low, _mm256_and_si256(top, _mm256_set1_epi8(0x30)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn tq2_0(b: &Words<'_, 16>, j: usize, g: usize) -> __m256i {
        let plane = shifted(b.word(j / 4 * 8 + g), 2 * (j as i32 % 4));
        _mm256_and_si256(plane, _mm256_set1_epi8(3))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn tq1_0(b: &Words<'_, 13>, j: usize, g: usize) -> __m256i {
        let (word, trit) = trit_of(j, g);
        trits(b.word(word), trit)
    }

    /// Signed.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn iq4_xs(b: &Words<'_, 34>, j: usize, g: usize) -> __m256i {
        b.iq4(2 + 4 * j, g)
    }
}

/// Elements `32j + 4g..32j + 4g + 4` of an expanded block of `W` words.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn expanded<B: Codebook, const S: usize, const W: usize>(
    b: &Words<'_, W>,
    j: usize,
    g: usize,
) -> __m256i {
    let values = _mm256_broadcastsi128_si256(load_16(&Expanded::<B, S>::UNSIGNED));
    _mm256_shuffle_epi8(values, b.codes_4(W - 32 + 4 * j, g))
}

/// The scales of an expanded block of `W` words.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn expanded_scales<const S: usize, const W: usize>(b: &Words<'_, W>) -> EightScales {
    const { assert!(W == S / 4 + 33) }
    of_expanded::<S>(b.words_at(0))
}

/// The word of TQ1_0 that holds elements `32j + 4g..32j + 4g + 4`, and which trit of its bytes they
/// are.
#[inline(always)]
pub(in crate::isa) fn trit_of(j: usize, g: usize) -> (usize, usize) {
    match (j, g) {
        (0..5, _) => (g, j),
        (7, 4..) => (12, g - 4),
        _ => (8 + g % 4, 2 * (j - 5) + g / 4),
    }
}

/// Writes the rows of tokens `token..token + N`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn write<const N: usize>(
    place: &LaneOutputs,
    sums: [__m256; N],
    token: usize,
    y: &mut [f32],
) {
    for t in 0..N {
        let mut lanes = [0.0; LANES];
        store_ps(&mut lanes, sums[t]);
        place.put(&lanes, token + t, y);
    }
}

/// Asks for the `J`th of `STEPS` shares of a block of type `B`, in `N` tokens' kernel, some time
/// before it is read: for its lines, or the first of the block alone.
#[inline]
#[target_feature(enable = "sse")]
fn prefetch_share<B: Block, const N: usize, const J: usize, const STEPS: usize>(words: &[u8; 32]) {
    // The planes of six bits lie apart: not an order that the hardware could follow.
    let followed = B::TY != GgmlType::Q6_K && outruns_memory(size_of::<B>(), B::LEN, N);
    if followed && leads_prefetcher() {
        if J == 0 {
            prefetch::<_MM_HINT_T1, _>(words, AHEAD_BYTES);
        }
        return;
    }
    let share = (size_of::<B>() * LANES).div_ceil(64) * 64 / STEPS;
    for line in (0..share).step_by(64) {
        match followed {
            true => prefetch::<_MM_HINT_T1, _>(words, FAR_BYTES + J * share + line),
            false => prefetch::<_MM_HINT_T0, _>(words, AHEAD_BYTES + J * share + line),
        }
    }
}

/// Codes `4g..4g + 4` of a token, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn four(q: &[i8; 32], g: usize) -> __m256i {
    spread(&q.as_chunks::<4>().0[g])
}

/// Unrolls a loop over the eight groups of four codes: shifts by constants are immediate.
macro_rules! eight_times {
    (|$g:ident| $body:expr) => {
        eight_times!(|$g| $body, 0 1 2 3 4 5 6 7)
    };
    (|$g:ident| $body:expr, $($i:literal)*) => {$({
        const $g: usize = $i;
        $body
    })*};
}

/// A group of a type in blocks of 32 with codes of at most 5 bits.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_32<B: Codes32, D: Dot, const W: usize, const N: usize>(
    group: &[u8],
    x: &Rows<'_, N>,
    codes: impl Fn(&Words<'_, W>, usize) -> __m256i,
    scales: impl Fn(&Words<'_, W>) -> [__m256; 2],
) -> [__m256; N] {
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_ps(); N];
    let x = x.as_long_as(x.d[0].len());
    for i in 0..x.d[0].len() {
        let b = Words::<W>::new(group, i, size_of::<B>());
        prefetch_share::<B, N, 0, 1>(&b.words[0]);
        // Eight pairs of products of codes up to 15 fit an i16, of codes up to 31 four.
        let mut run = [[_mm256_setzero_si256(); 2]; N];
        if D::FOUR && B::OFFSET != 0 {
            for t in 0..N {
                let [s, s_2] = x.s[t][i];
                let sum = i32::from(s) + i32::from(s_2);
                run[t][0] = _mm256_set1_epi32(-B::OFFSET * sum);
            }
        }
        eight_times!(|G| {
            let code = codes(&b, G);
            for t in 0..N {
                if D::FOUR {
                    run[t][0] = D::dot(run[t][0], code, four(&x.q[t][i], G));
                    continue;
                }
                let products = _mm256_maddubs_epi16(code, four(&x.q[t][i], G));
                let run = &mut run[t][if B::MAX > 15 { G / 4 } else { 0 }];
                *run = pin(_mm256_add_epi16(*run, products));
            }
        });
        let [d, m] = scales(&b);
        for t in 0..N {
            let mut isum = run[t][0];
            if !D::FOUR {
                isum = _mm256_madd_epi16(isum, ones);
            }
            if !D::FOUR && B::MAX > 15 {
                isum = _mm256_add_epi32(isum, _mm256_madd_epi16(run[t][1], ones));
            }
            let [s, s_2] = x.s[t][i];
            let sum = i32::from(s) + i32::from(s_2);
            if !D::FOUR && B::OFFSET != 0 {
                isum = _mm256_sub_epi32(isum, _mm256_set1_epi32(B::OFFSET * sum));
            }
            let da = _mm256_set1_ps(x.d[t][i]);
            acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(d, da), _mm256_cvtepi32_ps(isum), acc[t]);
            if B::HAS_MIN {
                let sum = _mm256_set1_ps(sum as f32);
                acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(m, da), sum, acc[t]);
            }
        }
    }
    acc
}

/// A group of a type in blocks of several times 32 with codes of at most 5 bits; for the four scales
/// see [`Codes16::scale_of`].
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_16<B: Codes16, D: Dot, const W: usize, const N: usize>(
    group: &[u8],
    x: &Rows<'_, N>,
    codes: impl Fn(&Words<'_, W>, usize, usize) -> __m256i,
    scales: impl Fn(&Words<'_, W>) -> [__m256; 4],
) -> [__m256; N] {
    const { assert!(8 * 127 * B::MAX <= i16::MAX as i32, "eight products fit an i16") }
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..x.d[0].len() / B::PARTS {
        let b = Words::<W>::new(group, i, size_of::<B>());
        prefetch_share::<B, N, 0, 1>(&b.words[0]);
        let (d, x) = (scales(&b), x.blocks(i * B::PARTS, B::PARTS));
        eight_times!(
            |J| if J < B::PARTS {
                let mut run = [[_mm256_setzero_si256(); 2]; N];
                for t in 0..if D::FOUR { N } else { 0 } {
                    for half in 0..2 {
                        let start = -B::OFFSET * i32::from(x.s[t][J][half]);
                        run[t][half] = _mm256_set1_epi32(start);
                    }
                }
                eight_times!(|G| {
                    let code = codes(&b, J, G);
                    for t in 0..N {
                        if D::FOUR {
                            let q = four(&x.q[t][J], G);
                            run[t][G / 4] = D::dot(run[t][G / 4], code, q);
                            continue;
                        }
                        let products = _mm256_maddubs_epi16(code, four(&x.q[t][J], G));
                        let run = &mut run[t][G / 4];
                        *run = pin(_mm256_add_epi16(*run, products));
                    }
                });
                for t in 0..N {
                    let da = _mm256_set1_ps(x.d[t][J]);
                    for half in 0..2 {
                        let mut isum = run[t][half];
                        if !D::FOUR {
                            let offset = B::OFFSET * i32::from(x.s[t][J][half]);
                            isum = _mm256_madd_epi16(isum, ones);
                            isum = _mm256_sub_epi32(isum, _mm256_set1_epi32(offset));
                        }
                        let d = _mm256_mul_ps(d[B::scale_of(J, half)], da);
                        acc[t] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(isum), acc[t]);
                    }
                }
            },
            0 1 2 3
        );
    }
    acc
}

/// A group of a type in blocks of 32 with signed codes of 8 bits and a half for their scale.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn wide_32<B: Block, D: Dot, const W: usize, const N: usize>(
    group: &[u8],
    x: &Rows<'_, N>,
    codes: impl Fn(&Words<'_, W>, usize) -> __m256i,
) -> [__m256; N] {
    let mut acc = [_mm256_setzero_ps(); N];
    let x = x.as_long_as(x.d[0].len());
    for i in 0..x.d[0].len() {
        let b = Words::<W>::new(group, i, size_of::<B>());
        prefetch_share::<B, N, 0, 1>(&b.words[0]);
        let mut isum = [_mm256_setzero_si256(); N];
        if D::FOUR {
            for t in 0..N {
                let sum = i32::from(x.s[t][i][0]) + i32::from(x.s[t][i][1]);
                isum[t] = _mm256_set1_epi32(-128 * sum);
            }
        }
        eight_times!(|G| {
            // Plus 128 it is unsigned; or |w| <= 128 is, and its sign goes to q: at most
            // 2 * 128 * 127 in an i16.
            let w = codes(&b, G);
            let unsigned = match D::FOUR {
                true => _mm256_xor_si256(w, _mm256_set1_epi8(-128)),
                false => _mm256_abs_epi8(w),
            };
            for t in 0..N {
                let q = four(&x.q[t][i], G);
                let q = if D::FOUR { q } else { _mm256_sign_epi8(q, w) };
                isum[t] = D::dot(isum[t], unsigned, q);
            }
        });
        let d = b.half();
        for t in 0..N {
            let d = _mm256_mul_ps(d, _mm256_set1_ps(x.d[t][i]));
            acc[t] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(isum[t]), acc[t]);
        }
    }
    acc
}

/// A group of a type in super-blocks of 256. Codes of 8 bits are signed, without the offset.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_256<B: Unsigned256, D: Dot, const W: usize, const N: usize>(
    group: &[u8],
    x: &Rows<'_, N>,
    codes: impl Fn(&Words<'_, W>, usize, usize) -> __m256i,
    scales: impl Fn(&Words<'_, W>) -> EightScales,
) -> [__m256; N] {
    // Shuffling by masks it knows the compiler finds two instructions for one.
    let masks = std::hint::black_box(&MASKS);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..x.d[0].len() / 8 {
        let b = Words::<W>::new(group, i, size_of::<B>());
        let scales = scales(&b);
        let mut tokens = [Token::default(); N];
        for t in 0..N {
            tokens[t] = Token {
                q: &x.q[t].as_chunks().0[i],
                d: &x.d[t].as_chunks().0[i],
                s: &x.s[t].as_chunks().0[i],
                starts: [[0; 8]; 2],
            };
            if D::FOUR && B::OFFSET != 0 {
                tokens[t].starts = starts::<B>(tokens[t].s);
            }
        }
        // From memory they are spread over the lanes by the load.
        let tokens = if D::FOUR { std::hint::black_box(&tokens) } else { &tokens };
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        eight_times!(|J| step::<B, D, W, N, J>(&b, tokens, &codes, &scales, masks, &mut sums));
        for t in 0..N {
            let [products, mins] = sums[t];
            acc[t] = _mm256_fmadd_ps(scales.d, products, acc[t]);
            if B::HAS_MIN {
                acc[t] = _mm256_fnmadd_ps(scales.dmin, mins, acc[t]);
            }
        }
    }
    acc
}

/// 256 activations of one token.
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [[i8; 32]; 8],
    d: &'a [f32; 8],
    s: &'a [[i16; SUMS]; 8],
    /// Where sums of four products begin: at the offset's share of each 16 elements, or of each 32 in
    /// the first eight.
    starts: [[i32; 8]; 2],
}

impl Default for Token<'_> {
    fn default() -> Self {
        Token { q: &[[0; 32]; 8], d: &[0.0; 8], s: &[[0; SUMS]; 8], starts: [[0; 8]; 2] }
    }
}

/// [`Token::starts`] of a token's sums.
#[inline]
#[target_feature(enable = "avx2")]
fn starts<B: Unsigned256>(s: &[[i16; SUMS]; 8]) -> [[i32; 8]; 2] {
    let (s, minus_offset) = (load(s), _mm256_set1_epi32(-B::OFFSET));
    let mut starts = [[0; 8]; 2];
    if B::GROUP == 32 {
        let sums = _mm256_madd_epi16(s, _mm256_set1_epi16(1));
        store(&mut starts[0], _mm256_mullo_epi32(sums, minus_offset));
    } else {
        let halves = [_mm256_castsi256_si128(s), _mm256_extracti128_si256::<1>(s)];
        for (starts, s) in starts.iter_mut().zip(halves) {
            store(starts, _mm256_mullo_epi32(_mm256_cvtepi16_epi32(s), minus_offset));
        }
    }
    starts
}

/// Elements `32J..32J + 32` of a super-block: a step of the chain of the products and of that of
/// the minimums.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn step<B: Unsigned256, D: Dot, const W: usize, const N: usize, const J: usize>(
    b: &Words<'_, W>,
    tokens: &[Token<'_>; N],
    codes: &impl Fn(&Words<'_, W>, usize, usize) -> __m256i,
    scales: &EightScales,
    masks: &Masks,
    sums: &mut [[__m256; 2]; N],
) {
    fence();
    prefetch_share::<B, N, J, 8>(&b.words[0]);
    if D::FOUR {
        products_of_fours::<B, D, W, N, J>(b, tokens, codes, scales, masks, sums);
        minimums::<B, N, J>(tokens, scales, masks, sums);
        return;
    }
    // Groups of four codes whose pairs of products fit an i16; a run ends with its scale, too.
    let fit = if B::MAX <= 15 {
        8
    } else if B::MAX <= 31 {
        4
    } else if B::MAX <= 63 {
        2
    } else {
        1
    };
    let signed = B::MAX > 127;
    let run_len = if B::GROUP == 16 && fit > 4 { 4 } else { fit };
    let factor = |half: usize| {
        if B::ONE_SCALE {
            return _mm256_set1_epi16(1);
        }
        let i = if B::GROUP == 32 { J } else { 2 * J + half };
        if B::GROUP == 32 && B::HAS_MIN {
            _mm256_shuffle_epi8(scales.scales[i / 4], load(&masks.twice[i % 4]))
        } else {
            // Scales may be negative.
            let scale = load(&masks.twice_high[i % 4]);
            _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(scales.scales[i / 4], scale))
        }
    };
    let factors = [factor(0), factor(1)];
    let mut isum = [_mm256_setzero_si256(); N];
    let mut run = [_mm256_setzero_si256(); N];
    eight_times!(|G| {
        let code = codes(b, J, G);
        let unsigned = if signed { _mm256_abs_epi8(code) } else { code };
        for t in 0..N {
            let q = four(&tokens[t].q[J], G);
            let q = if signed { _mm256_sign_epi8(q, code) } else { q };
            let products = _mm256_maddubs_epi16(unsigned, q);
            run[t] = pin(_mm256_add_epi16(run[t], products));
        }
        if (G + 1).is_multiple_of(run_len) {
            for t in 0..N {
                let scaled = _mm256_madd_epi16(run[t], factors[G / 4]);
                isum[t] = _mm256_add_epi32(isum[t], scaled);
                run[t] = _mm256_setzero_si256();
            }
        }
    });
    if B::ONE_SCALE {
        for t in 0..N {
            let [s, s_2] = tokens[t].s[J];
            let offset = B::OFFSET * (i32::from(s) + i32::from(s_2));
            isum[t] = _mm256_sub_epi32(isum[t], _mm256_set1_epi32(offset));
        }
    } else if B::OFFSET != 0 && !signed {
        // Both scales of 32 elements, for the sums of both halves.
        let pair = if B::GROUP == 32 {
            factors[0]
        } else {
            let pair = _mm256_shuffle_epi8(scales.scales[J / 2], load(&masks.pair[J % 2]));
            _mm256_srai_epi16::<8>(pair)
        };
        for t in 0..N {
            let offset = _mm256_madd_epi16(pair, spread(&tokens[t].s[J]));
            let offset = _mm256_sll_epi32(offset, _mm_cvtsi32_si128(B::OFFSET.ilog2() as i32));
            isum[t] = _mm256_sub_epi32(isum[t], offset);
        }
    }
    for t in 0..N {
        let da = _mm256_set1_ps(tokens[t].d[J]);
        sums[t][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[t]), da, sums[t][0]);
    }
    minimums::<B, N, J>(tokens, scales, masks, sums);
}

/// A step of the chain of the products, where four are added to an i32 at once.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn products_of_fours<B: Unsigned256, D: Dot, const W: usize, const N: usize, const J: usize>(
    b: &Words<'_, W>,
    tokens: &[Token<'_>; N],
    codes: &impl Fn(&Words<'_, W>, usize, usize) -> __m256i,
    scales: &EightScales,
    masks: &Masks,
    sums: &mut [[__m256; 2]; N],
) {
    let runs = 32 / B::GROUP;
    let mut isum = [[_mm256_setzero_si256(); 2]; N];
    if B::OFFSET != 0 {
        for t in 0..N {
            for i in 0..runs {
                let start = tokens[t].starts.as_flattened()[J * runs + i];
                isum[t][i] = _mm256_set1_epi32(start);
            }
        }
    }
    eight_times!(|G| {
        let code = codes(b, J, G);
        // Codes of 8 bits come signed.
        let plus_128 = _mm256_set1_epi8(-128);
        let code = if B::MAX > 127 { _mm256_xor_si256(code, plus_128) } else { code };
        for t in 0..N {
            let isum = &mut isum[t][if B::GROUP == 16 { G / 4 } else { 0 }];
            *isum = D::dot(*isum, code, four(&tokens[t].q[J], G));
        }
    });
    let scale = |i: usize| {
        let (scales, byte) = (scales.scales[i / 4], i % 4);
        _mm256_cvtepi32_ps(if B::HAS_MIN {
            _mm256_shuffle_epi8(scales, load(&masks.min[byte]))
        } else {
            // Scales may be negative.
            _mm256_srai_epi32::<24>(_mm256_shuffle_epi8(scales, load(&masks.twice_high[byte])))
        })
    };
    for t in 0..N {
        let [first, second] = [_mm256_cvtepi32_ps(isum[t][0]), _mm256_cvtepi32_ps(isum[t][1])];
        // Integers below 2^24: exact.
        let products = if B::ONE_SCALE {
            first
        } else if B::GROUP == 32 {
            _mm256_mul_ps(first, scale(J))
        } else {
            _mm256_fmadd_ps(second, scale(2 * J + 1), _mm256_mul_ps(first, scale(2 * J)))
        };
        let da = _mm256_set1_ps(tokens[t].d[J]);
        sums[t][0] = _mm256_fmadd_ps(products, da, sums[t][0]);
    }
}

/// A step of the chain of the minimums, in types that have them.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn minimums<B: Unsigned256, const N: usize, const J: usize>(
    tokens: &[Token<'_>; N],
    scales: &EightScales,
    masks: &Masks,
    sums: &mut [[__m256; 2]; N],
) {
    if B::HAS_MIN {
        let min = |word: usize, byte: usize| {
            let min = _mm256_shuffle_epi8(scales.mins[word], load(&masks.min[byte]));
            _mm256_cvtepi32_ps(min)
        };
        if B::GROUP == 32 {
            let min = min(J / 4, J % 4);
            for t in 0..N {
                let [s, s_2] = tokens[t].s[J];
                let sum = _mm256_set1_ps(tokens[t].d[J] * f32::from(s + s_2));
                sums[t][1] = _mm256_fmadd_ps(min, sum, sums[t][1]);
            }
        } else {
            for half in 0..2 {
                let min = min(J / 2, J % 2 * 2 + half);
                for t in 0..N {
                    let sum = tokens[t].d[J] * f32::from(tokens[t].s[J][half]);
                    sums[t][1] = _mm256_fmadd_ps(min, _mm256_set1_ps(sum), sums[t][1]);
                }
            }
        }
    }
}

/// Byte shuffles within words.
struct Masks {
    /// Byte `i` to two equal i16, zeros above.
    twice: [[u8; 32]; 4],
    /// Byte `i` to the upper bytes of two i16.
    twice_high: [[u8; 32]; 4],
    /// Bytes `2i` and `2i + 1` to the upper bytes of two i16.
    pair: [[u8; 32]; 2],
    /// Byte `i` to an i32.
    min: [[u8; 32]; 4],
}

static MASKS: Masks = {
    const NONE: [u8; 32] = [0x80; 32];
    let mut masks =
        Masks { twice: [NONE; 4], twice_high: [NONE; 4], pair: [NONE; 2], min: [NONE; 4] };
    let mut word = 0;
    while word < 8 {
        // Shuffles see the 16 bytes of each half.
        let (at, source) = (4 * word, 4 * (word % 4));
        let mut i = 0;
        while i < 4 {
            let byte = (source + i) as u8;
            masks.twice[i][at] = byte;
            masks.twice[i][at + 2] = byte;
            masks.twice_high[i][at + 1] = byte;
            masks.twice_high[i][at + 3] = byte;
            masks.pair[i / 2][at + 1 + i % 2 * 2] = byte;
            masks.min[i][at] = byte;
            i += 1;
        }
        word += 1;
    }
    masks
};
