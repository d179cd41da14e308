//! Decoding from interleaved rows ([`crate::interleave`]), sixteen to a group: a weight row per
//! lane, as AVX2's kernels of the same name, in half as many loads and a third of the instructions.
//!
//! A token's four codes are the broadcast operand of `vpdpbusd`, which adds all products of a
//! block to an i32: no code is too large, offsets are where sums begin.

use super::mem::{load, load_16, load_32, spread, store_ps};
use crate::act::SUMS;
use crate::block::expanded::{Codebook, Expanded};
use crate::block::iq4_nl;
use crate::interleave::{FIFTH, LaneOutputs};
use crate::isa::avx2::lanes::trit_of;
use crate::isa::avx2::lines::{AHEAD_BYTES, FAR_BYTES, leads_prefetcher, outruns_memory};
use crate::isa::avx2::mem::prefetch;
use crate::isa::avx2::unpack::{Codes16, Codes32, MXFP4_CODES, TWO_TRITS, Unsigned256};
use crate::isa::tokens::Rows;
use std::arch::x86_64::*;

/// Rows of a group.
pub(in crate::isa) const LANES: usize = 16;

/// The `W` words of a block, of all rows, and what does not fill a word.
#[derive(Clone, Copy)]
pub(super) struct Words<'a, const W: usize> {
    words: &'a [[u8; 64]; W],
    rest: &'a [u8],
}

impl<'a, const W: usize> Words<'a, W> {
    #[inline(always)]
    fn new(group: &'a [u8], block: usize, bytes: usize) -> Self {
        let (words, rest) = group[block * LANES * bytes..][..LANES * bytes].split_at(64 * W);
        Words { words: words.as_chunks().0.first_chunk().expect("the words of a block"), rest }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn word(&self, w: usize) -> __m512i {
        load(&self.words[w])
    }

    /// The half of each row that is the rest of its block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn half(&self) -> __m512 {
        _mm512_cvtph_ps(load_32(self.rest.first_chunk::<32>().expect("a half of each row")))
    }

    /// The scale that is the rest of each row's block, and no minimum.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn scale_alone(&self) -> [__m512; 2] {
        [self.half(), _mm512_setzero_ps()]
    }

    /// Powers of two, `2^(e - 128)`, no minimum.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn exponent_alone(&self) -> [__m512; 2] {
        let bytes = self.rest.first_chunk().expect("a byte of each row");
        let e = _mm512_cvtepu8_epi32(load_16(bytes));
        let one = _mm512_set1_epi32(1);
        // The last two are below the least normal number.
        let denormal = _mm512_sllv_epi32(_mm512_set1_epi32(1 << 21), e);
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, one));
        let d = _mm512_mask_mov_epi32(denormal, _mm512_cmpgt_epi32_mask(e, one), normal);
        [_mm512_castsi512_ps(d), _mm512_setzero_ps()]
    }

    /// The two halves in word `w`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn halves(&self, w: usize) -> [__m512; 2] {
        pairs_of_halves(self.word(w))
    }

    /// The four scales in word `w`, as NVFP4 has them: see AVX2's `of_nvfp4`.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn four_scales(&self, w: usize) -> [__m512; 4] {
        let words = self.word(w);
        let is_number = _mm512_cmpneq_epi8_mask(words, _mm512_set1_epi8(0x7f));
        let words = _mm512_maskz_mov_epi8(is_number, words);
        let fields = _mm512_set1_epi16(0x7f << 7);
        let even = _mm512_and_si512(_mm512_slli_epi16::<7>(words), fields);
        let odd = _mm512_and_si512(_mm512_srli_epi16::<1>(words), fields);
        let ([a, c], [b, d]) = (pairs_of_halves(even), pairs_of_halves(odd));
        let up = _mm512_set1_ps(128.0);
        [_mm512_mul_ps(a, up), _mm512_mul_ps(b, up), _mm512_mul_ps(c, up), _mm512_mul_ps(d, up)]
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn nibbles(&self, w: usize, high: bool) -> __m512i {
        let word = if high { _mm512_srli_epi16::<4>(self.word(w)) } else { self.word(w) };
        _mm512_and_si512(word, _mm512_set1_epi8(15))
    }

    /// Bits of word `w` shifted right by `right`, to the left if negative, under a mask.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn bits(&self, w: usize, right: i32, mask: i8) -> __m512i {
        let count = _mm_cvtsi32_si128(right.abs());
        let x = self.word(w);
        let x = if right < 0 { _mm512_sll_epi16(x, count) } else { _mm512_srl_epi16(x, count) };
        _mm512_and_si512(x, _mm512_set1_epi8(mask))
    }

    /// Elements `4g..4g + 4` of a block of 32 with nibbles from word `first` on.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn codes_4(&self, first: usize, g: usize) -> __m512i {
        self.nibbles(first + g % 4, g >= 4)
    }

    /// Codes of 5 bits: [`Words::codes_4`] with the fifth bits in the word before.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn codes_5(&self, first: usize, g: usize) -> __m512i {
        let fifth = self.bits(first - 1, FIFTH[g] - 4, 16);
        _mm512_or_si512(self.codes_4(first, g), fifth)
    }

    /// Codes of a byte, plus 128.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn codes_8(&self, g: usize) -> __m512i {
        _mm512_xor_si512(self.word(g), _mm512_set1_epi8(-128))
    }

    /// Codes of IQ4_NL and IQ4_XS plus 128, by [`Words::codes_4`].
    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn iq4(&self, first: usize, g: usize) -> __m512i {
        values(&IQ4_CODES, self.codes_4(first, g))
    }

    /// The codes of MXFP4.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn mxfp4(&self, g: usize) -> __m512i {
        values(&MXFP4_CODES, self.codes_4(0, g))
    }
}

/// The first and the second halves of sixteen pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs_of_halves(pairs: __m512i) -> [__m512; 2] {
    [
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs)),
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs))),
    ]
}

/// The values that codes of 4 bits stand for.
#[inline]
#[target_feature(enable = "avx512bw")]
fn values(values: &[u8; 16], codes: __m512i) -> __m512i {
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load_16(values)), codes)
}

/// The values of the codes of IQ4_NL and IQ4_XS, plus 128.
const IQ4_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = iq4_nl::VALUES[i] as u8 ^ 0x80;
        i += 1;
    }
    codes
};

/// Elements `32j + 4g..32j + 4g + 4` of blocks of several times 32; see the scalar `unpack` of each
/// type.
pub(super) mod parts {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q1_0(b: &Words<'_, 4>, j: usize, g: usize) -> __m512i {
        b.bits(j, FIFTH[g] - 1, 2)
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q2_0(b: &Words<'_, 4>, j: usize, g: usize) -> __m512i {
        b.bits(2 * j + g / 4, 2 * (g as i32 % 4), 3)
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn nvfp4(b: &Words<'_, 9>, j: usize, g: usize) -> __m512i {
        values(&MXFP4_CODES, b.nibbles(1 + 4 * j + g / 4 * 2 + g % 2, g % 4 >= 2))
    }
}

/// Elements `32j + 4g..32j + 4g + 4` of super-blocks; see the scalar `unpack` of each type.
pub(super) mod super_block {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q2_k(b: &Words<'_, 21>, j: usize, g: usize) -> __m512i {
        b.bits(4 + j / 4 * 8 + g, 2 * (j as i32 % 4), 3)
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q3_k(b: &Words<'_, 27>, j: usize, g: usize) -> __m512i {
        let low = b.bits(8 + j / 4 * 8 + g, 2 * (j as i32 % 4), 3);
        _mm512_or_si512(low, b.bits(g, j as i32 - 2, 4))
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q4_k(b: &Words<'_, 36>, j: usize, g: usize) -> __m512i {
        b.nibbles(4 + j / 2 * 8 + g, j % 2 == 1)
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q5_k(b: &Words<'_, 44>, j: usize, g: usize) -> __m512i {
        let low = b.nibbles(12 + j / 2 * 8 + g, j % 2 == 1);
        _mm512_or_si512(low, b.bits(4 + g, j as i32 - 4, 16))
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn tq2_0(b: &Words<'_, 16>, j: usize, g: usize) -> __m512i {
        b.bits(j / 4 * 8 + g, 2 * (j as i32 % 4), 3)
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn tq1_0(b: &Words<'_, 13>, j: usize, g: usize) -> __m512i {
        let (word, n) = trit_of(j, g);
        trits(b.word(word), n)
    }

    /// Trit `n` of bytes of TQ1_0, by AVX2's method.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn trits(mut x: __m512i, n: usize) -> __m512i {
        let times = |x, factor: i16| {
            let (even, odd) = (_mm512_set1_epi16(factor), _mm512_set1_epi16(factor << 8));
            [_mm512_maddubs_epi16(x, even), _mm512_maddubs_epi16(x, odd)]
        };
        let high = _mm512_set1_epi16(-256);
        let above = |[even, odd]: [__m512i; 2]| {
            _mm512_or_si512(_mm512_srli_epi16::<8>(even), _mm512_and_si512(odd, high))
        };
        for _ in 0..n / 2 {
            let [even, odd] = times(x, 9);
            x = _mm512_or_si512(_mm512_andnot_si512(high, even), _mm512_slli_epi16::<8>(odd));
        }
        if n == 4 { above(times(x, 3)) } else { values(&TWO_TRITS[n % 2], above(times(x, 9))) }
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn iq4_xs(b: &Words<'_, 34>, j: usize, g: usize) -> __m512i {
        b.iq4(2 + 4 * j, g)
    }
}

/// Elements `32j + 4g..32j + 4g + 4` of an expanded block of `W` words.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(super) fn expanded<B: Codebook, const S: usize, const W: usize>(
    b: &Words<'_, W>,
    j: usize,
    g: usize,
) -> __m512i {
    values(&Expanded::<B, S>::UNSIGNED, b.codes_4(W - 32 + 4 * j, g))
}

/// The scales and minimums of a super-block: byte `i` of register `w` belongs to group `4w + i`,
/// of which there are 8 or 16. Scales that are all 1 are not in it.
pub(super) struct Scales {
    scales: [__m512i; 4],
    mins: [__m512i; 4],
    d: __m512,
    dmin: __m512,
}

/// Scales as the types pack them; see the scalar `unpack` of each.
pub(super) mod scales {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q2_k(b: &Words<'_, 21>) -> Scales {
        let none = _mm512_setzero_si512();
        let (mut scales, mut mins) = ([none; 4], [none; 4]);
        for w in 0..4 {
            scales[w] = b.nibbles(w, false);
            mins[w] = b.nibbles(w, true);
        }
        let [d, dmin] = b.halves(20);
        Scales { scales, mins, d, dmin }
    }

    /// Scales of Q3_K, by the method of AVX2's `of_q3_k`.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn q3_k(b: &Words<'_, 27>) -> Scales {
        let scale = |w: usize, high: bool, right: i32| {
            let all = _mm512_or_si512(b.nibbles(24 + w, high), b.bits(26, right, 0x30));
            _mm512_sub_epi8(all, _mm512_set1_epi8(32))
        };
        let scales =
            [scale(0, false, -4), scale(1, false, -2), scale(0, true, 0), scale(1, true, 2)];
        let none = [_mm512_setzero_si512(); 4];
        Scales { scales, mins: none, d: b.half(), dmin: _mm512_setzero_ps() }
    }

    /// Scales of types that have nothing but `d`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn of_one<const W: usize>(b: &Words<'_, W>) -> Scales {
        let none = [_mm512_setzero_si512(); 4];
        Scales { scales: none, mins: none, d: b.half(), dmin: _mm512_setzero_ps() }
    }

    /// Scales and minimums of Q4_K and Q5_K.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn six_bits<const W: usize>(b: &Words<'_, W>) -> Scales {
        let none = _mm512_setzero_si512();
        let scales = [b.bits(1, 0, 63), _mm512_or_si512(b.nibbles(3, false), b.bits(1, 2, 0x30))];
        let mins = [b.bits(2, 0, 63), _mm512_or_si512(b.nibbles(3, true), b.bits(2, 2, 0x30))];
        let [d, dmin] = b.halves(0);
        Scales {
            scales: [scales[0], scales[1], none, none],
            mins: [mins[0], mins[1], none, none],
            d,
            dmin,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    pub fn iq4_xs(b: &Words<'_, 34>) -> Scales {
        let none = _mm512_setzero_si512();
        let mut scales = [none; 4];
        for w in 0..2 {
            let shuffled = |x, bytes: [usize; 4]| {
                let order = i32::from_le_bytes(bytes.map(|byte| byte as u8));
                // Shuffles see 16 bytes at a time.
                let word = _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
                let order = _mm_add_epi8(_mm_set1_epi32(order), word);
                _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order))
            };
            let low = shuffled(b.word(1), [2 * w, 2 * w, 2 * w + 1, 2 * w + 1]);
            let even = _mm512_and_si512(low, _mm512_set1_epi16(0x000f));
            let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(low), _mm512_set1_epi16(0x0f00));
            // Bits 2i and 2i + 1 of a byte to bits 4 and 5 of byte i.
            let high = shuffled(b.word(0), [2 + w; 4]);
            let byte = |x, i: u32| _mm512_and_si512(x, _mm512_set1_epi32(0x30 << (8 * i)));
            let first = byte(_mm512_slli_epi32::<4>(high), 0);
            let second = byte(_mm512_slli_epi32::<2>(high), 1);
            let fourth = byte(_mm512_srli_epi32::<2>(high), 3);
            let top = _mm512_or_si512(first, second);
            let top = _mm512_or_si512(top, _mm512_or_si512(byte(high, 2), fourth));
            let all = _mm512_or_si512(_mm512_or_si512(even, odd), top);
            scales[w] = _mm512_sub_epi8(all, _mm512_set1_epi8(32));
        }
        let [d, _] = b.halves(0);
        Scales { scales, mins: [none; 4], d, dmin: _mm512_setzero_ps() }
    }
}

/// The scales of an expanded block.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(super) fn expanded_scales<const S: usize, const W: usize>(b: &Words<'_, W>) -> Scales {
    const { assert!(W == S / 4 + 33) }
    let none = _mm512_setzero_si512();
    let mut scales = [none; 4];
    for w in 0..S / 4 {
        scales[w] = b.word(w);
    }
    let d = _mm512_castsi512_ps(b.word(S / 4));
    Scales { scales, mins: [none; 4], d, dmin: _mm512_setzero_ps() }
}

/// Writes the rows of tokens `token..token + N`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::isa) fn write<const N: usize>(
    place: &LaneOutputs,
    sums: [__m512; N],
    token: usize,
    y: &mut [f32],
) {
    for t in 0..N {
        let mut lanes = [0.0; LANES];
        store_ps(&mut lanes, sums[t]);
        place.put(&lanes, token + t, y);
    }
}

/// Asks for the `j`th of `steps` shares of a block, of `bytes` for `weights` in each row, some time
/// before it is read: for its lines, or the first of the block alone.
#[inline]
#[target_feature(enable = "sse")]
fn prefetch_share<const N: usize>(
    words: &[u8; 64],
    (bytes, weights): (usize, usize),
    (j, steps): (usize, usize),
) {
    if outruns_memory(bytes, weights, N) && leads_prefetcher() {
        if j == 0 {
            prefetch::<_MM_HINT_T1, _>(words, AHEAD_BYTES);
        }
        return;
    }
    let lines = (bytes * LANES).div_ceil(64);
    for line in lines * j / steps..lines * (j + 1) / steps {
        prefetch::<_MM_HINT_T1, _>(words, FAR_BYTES + 64 * line);
    }
}

/// Unrolls a loop over eight: shifts by constants are immediate.
macro_rules! eight_times {
    (|$g:ident| $body:expr) => {
        eight_times!(|$g| $body, 0 1 2 3 4 5 6 7)
    };
    (|$g:ident| $body:expr, $($i:literal)*) => {$({
        const $g: usize = $i;
        $body
    })*};
}

/// A group of a type in blocks of 32; of its codes `offset` is to be taken off.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks_32<const W: usize, const N: usize>(
    group: &[u8],
    x: &Rows<'_, N>,
    (bytes, offset, has_min): (usize, i32, bool),
    codes: impl Fn(&Words<'_, W>, usize) -> __m512i,
    scales: impl Fn(&Words<'_, W>) -> [__m512; 2],
) -> [__m512; N] {
    let mut acc = [_mm512_setzero_ps(); N];
    let x = x.as_long_as(x.d[0].len());
    for i in 0..x.d[0].len() {
        let b = Words::<W>::new(group, i, bytes);
        prefetch_share::<N>(&b.words[0], (bytes, 32), (0, 1));
        let mut sums = [0; N];
        let mut isum = [_mm512_setzero_si512(); N];
        for t in 0..N {
            sums[t] = i32::from(x.s[t][i][0]) + i32::from(x.s[t][i][1]);
            if offset != 0 {
                isum[t] = _mm512_set1_epi32(-offset * sums[t]);
            }
        }
        eight_times!(|G| {
            let code = codes(&b, G);
            for t in 0..N {
                let q = spread(&x.q[t][i].as_chunks::<4>().0[G]);
                isum[t] = _mm512_dpbusd_epi32(isum[t], code, q);
            }
        });
        let [d, m] = scales(&b);
        for t in 0..N {
            let da = _mm512_set1_ps(x.d[t][i]);
            acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, da), _mm512_cvtepi32_ps(isum[t]), acc[t]);
            if has_min {
                let sum = _mm512_set1_ps(sums[t] as f32);
                acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(m, da), sum, acc[t]);
            }
        }
    }
    acc
}

/// A group of a type in blocks of several times 32; for the four scales see [`Codes16::scale_of`].
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks_16<B: Codes16, const W: usize, const N: usize>(
    group: &[u8],
    x: &Rows<'_, N>,
    codes: impl Fn(&Words<'_, W>, usize, usize) -> __m512i,
    scales: impl Fn(&Words<'_, W>) -> [__m512; 4],
) -> [__m512; N] {
    let mut acc = [_mm512_setzero_ps(); N];
    for i in 0..x.d[0].len() / B::PARTS {
        let b = Words::<W>::new(group, i, size_of::<B>());
        prefetch_share::<N>(&b.words[0], (size_of::<B>(), B::LEN), (0, 1));
        let (d, x) = (scales(&b), x.blocks(i * B::PARTS, B::PARTS));
        eight_times!(
            |J| if J < B::PARTS {
                let mut isum = [[_mm512_setzero_si512(); 2]; N];
                for t in 0..N {
                    for half in 0..2 {
                        let start = -B::OFFSET * i32::from(x.s[t][J][half]);
                        isum[t][half] = _mm512_set1_epi32(start);
                    }
                }
                eight_times!(|G| {
                    let code = codes(&b, J, G);
                    for t in 0..N {
                        let q = spread(&x.q[t][J].as_chunks::<4>().0[G]);
                        isum[t][G / 4] = _mm512_dpbusd_epi32(isum[t][G / 4], code, q);
                    }
                });
                for t in 0..N {
                    let da = _mm512_set1_ps(x.d[t][J]);
                    for half in 0..2 {
                        let d = _mm512_mul_ps(d[B::scale_of(J, half)], da);
                        acc[t] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(isum[t][half]), acc[t]);
                    }
                }
            },
            0 1 2 3
        );
    }
    acc
}

/// Bytes of a type's block, its offset and whether it has minimums, for [`blocks_32`].
pub(super) const fn of_32<B: Codes32>() -> (usize, i32, bool) {
    (size_of::<B>(), B::OFFSET, B::HAS_MIN)
}

/// A group of a type in super-blocks of 256.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks_256<B: Unsigned256, const W: usize, const N: usize>(
    group: &[u8],
    x: &Rows<'_, N>,
    codes: impl Fn(&Words<'_, W>, usize, usize) -> __m512i,
    scales: impl Fn(&Words<'_, W>) -> Scales,
) -> [__m512; N] {
    // Shuffling by masks it knows the compiler finds two instructions for one.
    let masks = std::hint::black_box(&MASKS);
    let mut acc = [_mm512_setzero_ps(); N];
    for i in 0..x.d[0].len() / 8 {
        let b = Words::<W>::new(group, i, size_of::<B>());
        let scales = scales(&b);
        let mut tokens = [Token::default(); N];
        for t in 0..N {
            tokens[t] = Token::new::<B>(
                &x.q[t].as_chunks().0[i],
                &x.d[t].as_chunks().0[i],
                &x.s[t].as_chunks().0[i],
            );
        }
        // From memory they are spread over the lanes by the instruction that uses them.
        let tokens = std::hint::black_box(&tokens);
        let mut sums = [[_mm512_setzero_ps(); 2]; N];
        eight_times!(|J| step::<B, W, N, J>(&b, tokens, &codes, &scales, masks, &mut sums));
        for t in 0..N {
            let [products, mins] = sums[t];
            acc[t] = _mm512_fmadd_ps(scales.d, products, acc[t]);
            if B::HAS_MIN {
                acc[t] = _mm512_fnmadd_ps(scales.dmin, mins, acc[t]);
            }
        }
    }
    acc
}

/// 256 activations of one token, and what is the same for all rows.
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [[i8; 32]; 8],
    d: &'a [f32; 8],
    /// Where the sums of each 16 or 32 products begin: at the offset's share.
    starts: [i32; 16],
    /// The sums of codes under each minimum, times their scale.
    scaled: [f32; 16],
}

impl Default for Token<'_> {
    fn default() -> Self {
        Token { q: &[[0; 32]; 8], d: &[0.0; 8], starts: [0; 16], scaled: [0.0; 16] }
    }
}

impl<'a> Token<'a> {
    #[inline(always)]
    fn new<B: Unsigned256>(
        q: &'a [[i8; 32]; 8],
        d: &'a [f32; 8],
        s: &'a [[i16; SUMS]; 8],
    ) -> Token<'a> {
        let mut token = Token { q, d, starts: [0; 16], scaled: [0.0; 16] };
        for j in 0..8 {
            let [first, second] = s[j];
            if B::OFFSET != 0 && B::GROUP == 32 {
                token.starts[j] = -B::OFFSET * i32::from(first + second);
            } else if B::OFFSET != 0 {
                token.starts[2 * j] = -B::OFFSET * i32::from(first);
                token.starts[2 * j + 1] = -B::OFFSET * i32::from(second);
            }
            if B::HAS_MIN && B::GROUP == 32 {
                token.scaled[j] = d[j] * f32::from(first + second);
            } else if B::HAS_MIN {
                token.scaled[2 * j] = d[j] * f32::from(first);
                token.scaled[2 * j + 1] = d[j] * f32::from(second);
            }
        }
        token
    }
}

/// Elements `32J..32J + 32` of a super-block: a step of the chain of the products and of that of
/// the minimums.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn step<B: Unsigned256, const W: usize, const N: usize, const J: usize>(
    b: &Words<'_, W>,
    tokens: &[Token<'_>; N],
    codes: &impl Fn(&Words<'_, W>, usize, usize) -> __m512i,
    scales: &Scales,
    masks: &Masks,
    sums: &mut [[__m512; 2]; N],
) {
    prefetch_share::<N>(&b.words[0], (size_of::<B>(), B::LEN), (J, 8));
    // Byte `i` of each word of register `i / 4` as an i32.
    let scale = |i: usize| {
        // Types with an offset and no minimum are those with signed scales.
        if !B::HAS_MIN {
            let high = _mm512_shuffle_epi8(scales.scales[i / 4], load(&masks.high[i % 4]));
            _mm512_srai_epi32::<24>(high)
        } else {
            _mm512_shuffle_epi8(scales.scales[i / 4], load(&masks.low[i % 4]))
        }
    };
    let min = |i: usize| {
        let min = _mm512_shuffle_epi8(scales.mins[i / 4], load(&masks.low[i % 4]));
        _mm512_cvtepi32_ps(min)
    };
    let per_32 = 32 / B::GROUP;
    let mut isum = [[_mm512_setzero_si512(); 2]; N];
    if B::OFFSET != 0 {
        for t in 0..N {
            for i in 0..per_32 {
                isum[t][i] = _mm512_set1_epi32(tokens[t].starts[J * per_32 + i]);
            }
        }
    }
    eight_times!(|G| {
        let code = codes(b, J, G);
        for t in 0..N {
            let q = spread(&tokens[t].q[J].as_chunks::<4>().0[G]);
            let isum = &mut isum[t][if B::GROUP == 16 { G / 4 } else { 0 }];
            *isum = _mm512_dpbusd_epi32(*isum, code, q);
        }
    });
    for t in 0..N {
        let [first, second] = isum[t];
        let products = if B::ONE_SCALE {
            _mm512_cvtepi32_ps(first)
        } else if B::GROUP == 32 {
            // Integers below 2^24: exact.
            _mm512_mul_ps(_mm512_cvtepi32_ps(first), _mm512_cvtepi32_ps(scale(J)))
        } else {
            let first = _mm512_mullo_epi32(first, scale(2 * J));
            let second = _mm512_mullo_epi32(second, scale(2 * J + 1));
            _mm512_cvtepi32_ps(_mm512_add_epi32(first, second))
        };
        let da = _mm512_set1_ps(tokens[t].d[J]);
        sums[t][0] = _mm512_fmadd_ps(products, da, sums[t][0]);
        for i in J * per_32..if B::HAS_MIN { (J + 1) * per_32 } else { 0 } {
            let scaled = _mm512_set1_ps(tokens[t].scaled[i]);
            sums[t][1] = _mm512_fmadd_ps(min(i), scaled, sums[t][1]);
        }
    }
}

/// Byte shuffles within words.
struct Masks {
    /// Byte `i` alone, at the bottom of the word.
    low: [[u8; 64]; 4],
    /// At its top.
    high: [[u8; 64]; 4],
}

static MASKS: Masks = {
    const NONE: [u8; 64] = [0x80; 64];
    let mut masks = Masks { low: [NONE; 4], high: [NONE; 4] };
    let mut word = 0;
    while word < 16 {
        let mut i = 0;
        while i < 4 {
            // Shuffles see 16 bytes at a time.
            let byte = (4 * (word % 4) + i) as u8;
            masks.low[i][4 * word] = byte;
            masks.high[i][4 * word + 3] = byte;
            i += 1;
        }
        word += 1;
    }
    masks
};
