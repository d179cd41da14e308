//! Native blocks to codes and scales in registers.
//!
//! Codes come unsigned, 32 to a register in the order of the elements; a type's `OFFSET` is what
//! is to be taken off them. Of a super-block, register `j` is elements `32j..32j + 32`; callers
//! unroll their loops, so that `j` is a constant and all shifts are immediate.

use super::mem::{load, load_8, load_16, load_head, load_tail, store, store_16};
use super::sum::transpose_4;
use crate::block::expanded::{Codebook, Expanded};
use crate::block::*;
use std::arch::x86_64::*;

/// A type in blocks of 32 whose codes have at most 5 bits.
pub(in crate::isa) trait Codes32: Block32 {
    /// Value = d * (code - OFFSET) + m.
    const OFFSET: i32;
    /// The largest code.
    const MAX: i32;
    /// Whether the scale is no half but an exponent, in the first byte.
    const E8M0: bool;
    /// Scale and minimum.
    fn scales(&self) -> [F16; 2];
}

/// A type in blocks of several times 32 whose codes have at most 5 bits.
pub(in crate::isa) trait Codes16: Block16 {
    /// Value = d * (code - OFFSET).
    const OFFSET: i32;
    /// The largest code.
    const MAX: i32;
    /// Whether a block has one scale, not one per 16.
    const ONE_SCALE: bool;
    /// Parts of 32.
    const PARTS: usize = Self::LEN / 32;

    /// Which scale of the block, or of its repetitions, the `half`th 16 codes of part `j` have.
    #[inline(always)]
    fn scale_of(j: usize, half: usize) -> usize {
        if Self::ONE_SCALE { 0 } else { 2 * j + half }
    }
}

/// A type in blocks of 256, with codes that are unsigned less an offset.
pub(in crate::isa) trait Unsigned256: Block256 {
    /// Value = d * scale * (code - OFFSET) - dmin * min.
    const OFFSET: i32;
    /// The largest code.
    const MAX: i32;
    /// Whether every `scale` is 1.
    const ONE_SCALE: bool = false;
}

impl<B: Codebook, const S: usize> Unsigned256 for Expanded<B, S> {
    const OFFSET: i32 = Self::UNSIGNED_ZERO as i32;
    const MAX: i32 = 2 * Self::OFFSET - 1;
}

/// A type in files' blocks of 256.
pub(in crate::isa) trait Codes256: Unsigned256 {
    /// Scale of the scales and of the minimums.
    fn d(&self) -> [F16; 2];
}

/// The scales and minimums of a super-block as 16 i16, one per 16 elements.
pub(in crate::isa) struct Scales {
    pub scales: __m256i,
    pub mins: __m256i,
}

/// The scales of eight super-blocks, one of each of eight rows: byte `i` of word `r` in register
/// `w` belongs to group `4w + i` of row `r`. There are 8 or 16 groups. Scales that are all 1 are not
/// in it.
pub(super) struct EightScales {
    pub scales: [__m256i; 4],
    pub mins: [__m256i; 4],
    pub d: __m256,
    pub dmin: __m256,
}

/// A type in super-blocks of 256 with signed codes and no minimum.
pub(in crate::isa) trait Signed256: Block256 {
    /// The largest magnitude of a code.
    const MAX: i32;
}

macro_rules! signed_256 {
    ($($block:ident: $max:literal;)*) => {$(
        impl Signed256 for $block {
            const MAX: i32 = $max;
        }
    )*};
}

signed_256! {
    BlockIQ1S: 9;
    BlockIQ1M: 9;
    BlockIQ2XXS: 43;
    BlockIQ2XS: 43;
    BlockIQ2S: 43;
    BlockIQ3XXS: 62;
    BlockIQ3S: 15;
    BlockIQ4XS: 127;
}

/// A super-block of a [`Signed256`], 64 codes at a time: so that two groups of 32, one in either half
/// of a register, are summed at once.
#[derive(Clone, Copy, Default)]
#[repr(align(32))] // no register of codes across cache lines
pub(in crate::isa) struct Wide256 {
    /// Of each 64 codes the first halves of both 32, then the last ones.
    pub magnitudes: [[[u8; 32]; 2]; 4],
    /// Numbers of the same signs.
    pub signs: [[[i8; 32]; 2]; 4],
    /// The scales of those four halves as pairs of i16. If 32 codes have one, only the first row is
    /// used.
    pub scales: [[i32; 4]; 2],
    pub d: f32,
}

impl Wide256 {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn put(&mut self, i: usize, half: usize, codes: __m256i) {
        store(&mut self.magnitudes[i][half], _mm256_abs_epi8(codes));
        store(&mut self.signs[i][half], codes);
    }

    /// What nibbles stand for, of each 32 low ones first, then high ones.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn put_nibbles(&mut self, qs: &[[u8; 16]; 8], values: &[i8; 16]) {
        let (qs, _) = qs.as_flattened().as_chunks::<32>();
        let (values, low) = (_mm256_broadcastsi128_si256(load_16(values)), _mm256_set1_epi8(15));
        for i in 0..4 {
            let both = load(&qs[i]);
            let last = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
            self.put(i, 0, _mm256_shuffle_epi8(values, _mm256_and_si256(both, low)));
            self.put(i, 1, _mm256_shuffle_epi8(values, last));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn codes(&self, i: usize, half: usize) -> __m256i {
        _mm256_sign_epi8(load(&self.magnitudes[i][half]), load(&self.signs[i][half]))
    }

    /// The 16 scales as i16, those of groups of 32 twice.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn all_scales<B: Block256>(&self) -> __m256i {
        let [even, odd] = &self.scales;
        let (even, odd) = (load_16(even), load_16(if B::GROUP == 32 { even } else { odd }));
        _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd))
    }

    /// The scales of codes `[i][half]`, one in either half of a register; `order` is
    /// [`pair_order`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn scale<B: Block256>(&self, i: usize, half: usize, order: __m256i) -> __m256i {
        let half = if B::GROUP == 32 { 0 } else { half };
        _mm256_shuffle_epi8(_mm256_set1_epi32(self.scales[half][i]), order)
    }
}

/// The shuffle that takes the i16 of a pair to either half. Of one it knows the compiler makes three
/// instructions.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pair_order() -> __m256i {
    static ORDER: [u8; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 16 * 2 + i % 2) as u8;
            i += 1;
        }
        order
    };
    load(std::hint::black_box(&ORDER))
}

/// Two registers in the order of [`Wide256::codes`] to two in that of the elements, and back.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn halves_swapped([a, b]: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

macro_rules! codes_32 {
    ($($block:ident: $offset:literal, $max:literal, $e8m0:literal, |$b:ident| $scales:expr;)*) => {$(
        impl Codes32 for $block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            const E8M0: bool = $e8m0;
            #[inline(always)]
            fn scales(&self) -> [F16; 2] {
                let $b = self;
                $scales
            }
        }
    )*};
}

codes_32! {
    BlockQ4_0: 8, 15, false, |b| [b.d, F16([0; 2])];
    BlockQ4_1: 0, 15, false, |b| [b.d, b.m];
    BlockQ5_0: 16, 31, false, |b| [b.d, F16([0; 2])];
    BlockQ5_1: 0, 31, false, |b| [b.d, b.m];
    BlockMXFP4: 12, 24, true, |b| [F16([b.e, 0]), F16([0; 2])];
}

macro_rules! codes_16 {
    ($($block:ident: $offset:literal, $max:literal, $one_scale:literal;)*) => {$(
        impl Codes16 for $block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            const ONE_SCALE: bool = $one_scale;
        }
    )*};
}

codes_16! {
    // Its codes are twice the bits.
    BlockQ1_0: 1, 2, true;
    BlockQ2_0: 1, 3, true;
    BlockNVFP4: 12, 24, false;
}

macro_rules! codes_256 {
    ($($block:ident: $offset:literal, $max:literal, |$b:ident| $d:expr;)*) => {$(
        impl Unsigned256 for $block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
        }

        impl Codes256 for $block {
            #[inline(always)]
            fn d(&self) -> [F16; 2] {
                let $b = self;
                $d
            }
        }
    )*};
}

codes_256! {
    BlockQ2K: 0, 3, |b| [b.d, b.dmin];
    BlockQ3K: 4, 7, |b| [b.d, F16([0; 2])];
    BlockQ4K: 0, 15, |b| [b.d, b.dmin];
    BlockQ5K: 0, 31, |b| [b.d, b.dmin];
    BlockQ6K: 32, 63, |b| [b.d, F16([0; 2])];
    BlockIQ4XS: 128, 255, |b| [b.d, F16([0; 2])];
}

macro_rules! ternary {
    ($($block:ident: $max:literal;)*) => {$(
        impl Unsigned256 for $block {
            const OFFSET: i32 = 1;
            const MAX: i32 = $max;
            const ONE_SCALE: bool = true;
        }

        impl Codes256 for $block {
            #[inline(always)]
            fn d(&self) -> [F16; 2] {
                [self.d, F16([0; 2])]
            }
        }
    )*};
}

ternary! {
    BlockTQ1_0: 2;
    BlockTQ2_0: 3;
}

/// The bits of eight halves as floats.
#[inline]
#[target_feature(enable = "avx,f16c")]
pub(super) fn halves(h: [F16; 8]) -> __m256 {
    _mm256_cvtph_ps(load_16(&h))
}

/// One half as a float.
#[inline]
#[target_feature(enable = "avx,f16c")]
pub(in crate::isa) fn half(h: F16) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(h.0).into())))
}

/// A type's scales of eight blocks.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn scales_8<B: Codes32>(d: [F16; 8]) -> __m256 {
    if !B::E8M0 {
        return halves(d);
    }
    exponents(_mm256_cvtepu16_epi32(load_16(&d)))
}

/// `2^(e - 128)`: the last two are below the least normal number.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn exponents(e: __m256i) -> __m256 {
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
    let denormal = _mm256_sllv_epi32(_mm256_set1_epi32(1 << 21), e);
    let is_normal = _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1));
    _mm256_castsi256_ps(_mm256_blendv_epi8(denormal, normal, is_normal))
}

/// A type's scale of one block.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn scale<B: Codes32>(d: F16) -> f32 {
    if !B::E8M0 {
        return half(d);
    }
    let mut eight = [F16([0; 2]); 8];
    eight[0] = d;
    _mm256_cvtss_f32(scales_8::<B>(eight))
}

/// The codes of Q4_0 and Q4_1: low nibbles, then high ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn nibbles(qs: &[u8; 16]) -> __m256i {
    let low = load_16(qs);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// The codes of IQ4_NL, and of 32 elements of IQ4_XS: signed.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn iq4(qs: &[u8; 16]) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(&iq4_nl::VALUES)), nibbles(qs))
}

/// The codes of IQ4_XS, plus 128.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn iq4_xs_codes(b: &BlockIQ4XS, j: usize) -> __m256i {
    _mm256_xor_si256(iq4(&b.qs[j]), _mm256_set1_epi8(-128))
}

/// What the codes of MXFP4 and NVFP4 stand for, offset.
pub(in crate::isa) const MXFP4_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = (mxfp4::VALUES[i] as i32 + BlockMXFP4::OFFSET) as u8;
        i += 1;
    }
    codes
};

/// The codes of MXFP4.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn mxfp4(b: &BlockMXFP4) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(&MXFP4_CODES)), nibbles(&b.qs))
}

/// The codes of Q5_0 and Q5_1.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn nibbles_and_fifth(qs: &[u8; 16], qh: &[u8; 4]) -> __m256i {
    _mm256_or_si256(nibbles(qs), bits(qh, 16))
}

/// `value` for each bit that is set.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn bits(bits: &[u8; 4], value: i8) -> __m256i {
    // Byte i gets byte i / 8 of the bits, of which bit i % 8 is to be found.
    let spread =
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bits = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*bits)), spread);
    _mm256_and_si256(bits_set(bits), _mm256_set1_epi8(value))
}

/// All bits of byte `i` are those of bit `i % 8` of it.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn bits_set(bytes: __m256i) -> __m256i {
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
}

/// 32 numbers of two bits, a byte each: what is above these two bits is of no use.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn two_bits(bytes: &[u8; 8]) -> __m256i {
    // A byte's four numbers, from bit 2i on, to bit 8i.
    let x = _mm256_cvtepu8_epi32(load_8(bytes));
    let x = _mm256_or_si256(x, _mm256_slli_epi32::<12>(x));
    _mm256_or_si256(x, _mm256_slli_epi32::<6>(x))
}

/// The codes of Q1_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q1_0(b: &BlockQ1_0, j: usize) -> __m256i {
    bits(&b.qs[j], 2)
}

/// The codes of Q2_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q2_0(b: &BlockQ2_0, j: usize) -> __m256i {
    _mm256_and_si256(two_bits(&b.qs[j]), _mm256_set1_epi8(3))
}

/// The codes of NVFP4.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn nvfp4(b: &BlockNVFP4, j: usize) -> __m256i {
    let nibbles = nibbles(&b.qs.as_flattened().as_chunks().0[j]);
    let codes = _mm256_permute4x64_epi64::<0b11_01_10_00>(nibbles);
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(&MXFP4_CODES)), codes)
}

/// The four scales of each of eight blocks of NVFP4, of the words they are.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn of_nvfp4(words: __m256i) -> [__m256; 4] {
    // NaN's code is zero's. The exponent and the mantissa then are those of halves that are 2^7
    // times too small.
    let nan = _mm256_cmpeq_epi8(words, _mm256_set1_epi8(0x7f));
    let (words, fields) = (_mm256_andnot_si256(nan, words), _mm256_set1_epi16(0x7f << 7));
    let even = _mm256_and_si256(_mm256_slli_epi16::<7>(words), fields);
    let odd = _mm256_and_si256(_mm256_srli_epi16::<1>(words), fields);
    let ([a, c], [b, d]) = (pairs_of_halves(even), pairs_of_halves(odd));
    let up = _mm256_set1_ps(128.0);
    [_mm256_mul_ps(a, up), _mm256_mul_ps(b, up), _mm256_mul_ps(c, up), _mm256_mul_ps(d, up)]
}

/// The scales of eight blocks of NVFP4.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn eight_nvfp4(blocks: &[&BlockNVFP4; 8]) -> [__m256; 4] {
    let mut words = [0; 8];
    for r in 0..8 {
        words[r] = i32::from_le_bytes(blocks[r].d);
    }
    of_nvfp4(load(&words))
}

/// The scales of eight blocks that have one each.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn eight_halves<B>(blocks: &[&B; 8], d: impl Fn(&B) -> F16) -> [__m256; 4] {
    let mut halves_8 = [F16([0; 2]); 8];
    for r in 0..8 {
        halves_8[r] = d(blocks[r]);
    }
    [halves(halves_8); 4]
}

/// The codes of Q2_K.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q2_k(b: &BlockQ2K, j: usize) -> __m256i {
    let plane = shifted(load(&b.qs.as_chunks::<32>().0[j / 4]), 2 * (j as i32 % 4));
    _mm256_and_si256(plane, _mm256_set1_epi8(3))
}

/// The codes of Q3_K.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q3_k(b: &BlockQ3K, j: usize) -> __m256i {
    let low = shifted(load(&b.qs.as_chunks::<32>().0[j / 4]), 2 * (j as i32 % 4));
    let third = shifted(load(&b.hmask), j as i32 - 2);
    let third = _mm256_and_si256(third, _mm256_set1_epi8(4));
    _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(3)), third)
}

/// The codes of Q4_K.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q4_k(b: &BlockQ4K, j: usize) -> __m256i {
    let plane = shifted(load(&b.qs.as_chunks::<32>().0[j / 2]), 4 * (j as i32 % 2));
    _mm256_and_si256(plane, _mm256_set1_epi8(15))
}

/// The codes of Q5_K.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q5_k(b: &BlockQ5K, j: usize) -> __m256i {
    let low = shifted(load(&b.qs.as_chunks::<32>().0[j / 2]), 4 * (j as i32 % 2));
    let fifth = shifted(load(&b.qh), j as i32 - 4);
    let fifth = _mm256_and_si256(fifth, _mm256_set1_epi8(16));
    _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), fifth)
}

/// The codes of Q6_K.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn q6_k(b: &BlockQ6K, j: usize) -> __m256i {
    let ((ql, _), (qh, _)) = (b.ql.as_chunks::<32>(), b.qh.as_chunks::<32>());
    let (half, plane) = (j / 4, j % 4);
    let low = shifted(load(&ql[2 * half + plane % 2]), 4 * (plane as i32 / 2));
    let top = shifted(load(&qh[half]), 2 * plane as i32 - 4);
    let top = _mm256_and_si256(top, _mm256_set1_epi8(0x30));
    _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), top)
}

/// The codes of TQ2_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn tq2_0(b: &BlockTQ2_0, j: usize) -> __m256i {
    let plane = shifted(load(&b.qs[j / 4]), 2 * (j as i32 % 4));
    _mm256_and_si256(plane, _mm256_set1_epi8(3))
}

/// The codes of TQ1_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn tq1_0(b: &BlockTQ1_0, j: usize) -> __m256i {
    let (second, third) = (load_16(&b.second), i32::from_le_bytes(b.third));
    match j {
        0..5 => trits(load(&b.first), j),
        5 | 6 => {
            let (x, n) = (_mm256_broadcastsi128_si256(second), 2 * (j - 5));
            _mm256_blend_epi32::<0b1111_0000>(trits(x, n), trits(x, n + 1))
        }
        _ => {
            let x = _mm256_set_m128i(_mm_set1_epi32(third), second);
            let all = _mm256_blend_epi32::<0b0010_0000>(trits(x, 0), trits(x, 1));
            let all = _mm256_blend_epi32::<0b0100_0000>(all, trits(x, 2));
            let all = _mm256_blend_epi32::<0b1000_0000>(all, trits(x, 3));
            _mm256_blend_epi32::<0b0000_1111>(all, trits(x, 4))
        }
    }
}

/// Trit `n` of bytes of TQ1_0. What one multiplication by nine moves above the point are two trits.
/// The compiler computes once what several trits of the same bytes need.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn trits(mut x: __m256i, n: usize) -> __m256i {
    // Bytes at even and at odd places become 16 bits each.
    let times = |x, factor: i16| {
        let (even, odd) = (_mm256_set1_epi16(factor), _mm256_set1_epi16(factor << 8));
        [_mm256_maddubs_epi16(x, even), _mm256_maddubs_epi16(x, odd)]
    };
    let high = _mm256_set1_epi16(-256);
    let above = |[even, odd]: [__m256i; 2]| {
        _mm256_or_si256(_mm256_srli_epi16::<8>(even), _mm256_and_si256(odd, high))
    };
    for _ in 0..n / 2 {
        let [even, odd] = times(x, 9);
        x = _mm256_or_si256(_mm256_andnot_si256(high, even), _mm256_slli_epi16::<8>(odd));
    }
    if n == 4 {
        return above(times(x, 3));
    }
    let values = _mm256_broadcastsi128_si256(load_16(&TWO_TRITS[n % 2]));
    _mm256_shuffle_epi8(values, above(times(x, 9)))
}

/// The first and the second trit of numbers below nine.
pub(in crate::isa) const TWO_TRITS: [[u8; 16]; 2] = [
    [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0],
    [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0],
];

/// `x >> right`, bits of neighbouring bytes coming in; to the left if negative.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn shifted(x: __m256i, right: i32) -> __m256i {
    let count = _mm_cvtsi32_si128(right.abs());
    if right < 0 { _mm256_sll_epi16(x, count) } else { _mm256_srl_epi16(x, count) }
}

/// IQ4_XS.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn iq4_xs(b: &BlockIQ4XS, wide: &mut Wide256) {
    wide.put_nibbles(&b.qs, &iq4_nl::VALUES);
    store_16(&mut wide.scales[0], eight_scales_iq4_xs(b));
    wide.d = half(b.d);
}

/// The eight scales of IQ4_XS.
#[inline]
#[target_feature(enable = "avx2")]
fn eight_scales_iq4_xs(b: &BlockIQ4XS) -> __m128i {
    // Bits 2j and 2j + 1 to the top of word j, and down again.
    let high = _mm_set1_epi16(i16::from_le_bytes(b.scales_h));
    let up = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    let high = _mm_srli_epi16::<14>(_mm_mullo_epi16(high, up));
    let both = _mm_cvtsi32_si128(i32::from_le_bytes(b.scales_l));
    let both = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(both, _mm_srli_epi16::<4>(both)));
    let scales = _mm_and_si128(both, _mm_set1_epi16(15));
    let scales = _mm_or_si128(scales, _mm_slli_epi16::<4>(high));
    _mm_sub_epi16(scales, _mm_set1_epi16(32))
}

/// The eight scales of IQ4_XS, each twice.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_iq4_xs(b: &BlockIQ4XS) -> Scales {
    let scales = eight_scales_iq4_xs(b);
    let (low, high) = (_mm_unpacklo_epi16(scales, scales), _mm_unpackhi_epi16(scales, scales));
    Scales { scales: _mm256_set_m128i(high, low), mins: _mm256_setzero_si256() }
}

/// The scales of Q2_K.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_q2_k(b: &BlockQ2K) -> Scales {
    let both = load_16(&b.scales);
    let low = _mm_set1_epi8(15);
    Scales {
        scales: _mm256_cvtepu8_epi16(_mm_and_si128(both, low)),
        mins: _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(both), low)),
    }
}

/// The scales of Q3_K: see the scalar `unpack_scales`.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_q3_k(b: &BlockQ3K) -> Scales {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| b.scales[4 * i + j]));
    let (a, b, top) = (word(0), word(1), word(2));
    let (nibble, two) = (0x0f0f_0f0f, 0x0303_0303);
    let scales = [
        a & nibble | (top & two) << 4,
        b & nibble | (top >> 2 & two) << 4,
        a >> 4 & nibble | (top >> 4 & two) << 4,
        b >> 4 & nibble | (top >> 6 & two) << 4,
    ];
    let [a, b, c, d] = scales.map(|s| s as i32);
    let scales = _mm_sub_epi8(_mm_setr_epi32(a, b, c, d), _mm_set1_epi8(32));
    Scales { scales: _mm256_cvtepi8_epi16(scales), mins: _mm256_setzero_si256() }
}

/// The scales of Q6_K.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_q6_k(b: &BlockQ6K) -> Scales {
    let scales = _mm256_cvtepi8_epi16(load_16(&b.scales));
    Scales { scales, mins: _mm256_setzero_si256() }
}

/// Scales that are all 1.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_of_one() -> Scales {
    Scales { scales: _mm256_set1_epi16(1), mins: _mm256_setzero_si256() }
}

/// The eight scales and minimums of Q4_K and Q5_K, each twice.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_and_mins(packed: &[u8; 12]) -> Scales {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| packed[4 * i + j]));
    let (a, b, c) = (word(0), word(1), word(2));
    let (six, nibble, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let scales = [a & six, c & nibble | (a >> 6 & two) << 4];
    let mins = [b & six, c >> 4 & nibble | (b >> 6 & two) << 4];
    let twice = |[low, high]: [u32; 2]| {
        let bytes = _mm_cvtsi64_si128((u64::from(low) | u64::from(high) << 32) as i64);
        _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes))
    };
    Scales { scales: twice(scales), mins: twice(mins) }
}

/// The scales of eight blocks of Q2_K.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn eight_q2_k(blocks: &[&BlockQ2K; 8]) -> EightScales {
    of_q2_k(words(blocks, |b| load_16(&b.scales)), halves_8(blocks))
}

/// Of the four words of the scales.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn of_q2_k(words: [__m256i; 4], [d, dmin]: [__m256; 2]) -> EightScales {
    let (low, none) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
    let (mut scales, mut mins) = ([none; 4], [none; 4]);
    for w in 0..4 {
        scales[w] = _mm256_and_si256(words[w], low);
        mins[w] = _mm256_and_si256(_mm256_srli_epi16::<4>(words[w]), low);
    }
    EightScales { scales, mins, d, dmin }
}

/// The scales of eight blocks of a type that has nothing but `d`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn eight_of_one<B: Codes256>(blocks: &[&B; 8]) -> EightScales {
    const { assert!(B::ONE_SCALE) }
    let [d, _] = halves_8(blocks);
    of_one(d)
}

/// Of `d`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn of_one(d: __m256) -> EightScales {
    let none = [_mm256_setzero_si256(); 4];
    EightScales { scales: none, mins: none, d, dmin: _mm256_setzero_ps() }
}

/// The scales of eight blocks of Q3_K: see the scalar `unpack_scales`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn eight_q3_k(blocks: &[&BlockQ3K; 8]) -> EightScales {
    // Two bytes of codes, three words of scales, `d`.
    let [x, y, z, w] = words(blocks, |b| load_tail(b));
    let join =
        |low, high| _mm256_or_si256(_mm256_srli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
    let [d, _] = halves_8(blocks);
    of_q3_k([join(x, y), join(y, z), join(z, w)], d)
}

/// Of the three words of the scales.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn of_q3_k([a, b, top]: [__m256i; 3], d: __m256) -> EightScales {
    let (nibble, two, offset) =
        (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30), _mm256_set1_epi8(32));
    let scale = |low, top| {
        let (low, top) = (_mm256_and_si256(low, nibble), _mm256_and_si256(top, two));
        _mm256_sub_epi8(_mm256_or_si256(low, top), offset)
    };
    let scales = [
        scale(a, _mm256_slli_epi16::<4>(top)),
        scale(b, _mm256_slli_epi16::<2>(top)),
        scale(_mm256_srli_epi16::<4>(a), top),
        scale(_mm256_srli_epi16::<4>(b), _mm256_srli_epi16::<2>(top)),
    ];
    EightScales { scales, mins: [_mm256_setzero_si256(); 4], d, dmin: _mm256_setzero_ps() }
}

/// The scales of eight blocks of Q6_K.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn eight_q6_k(blocks: &[&BlockQ6K; 8]) -> EightScales {
    let [d, _] = halves_8(blocks);
    of_q6_k(words(blocks, |b| load_16(&b.scales)), d)
}

/// Of the four words of the scales.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn of_q6_k(scales: [__m256i; 4], d: __m256) -> EightScales {
    EightScales { scales, mins: [_mm256_setzero_si256(); 4], d, dmin: _mm256_setzero_ps() }
}

/// The scales of eight blocks that begin as those of Q4_K and Q5_K do.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn eight_scales_and_mins<B: Block>(blocks: &[&B; 8]) -> EightScales {
    of_scales_and_mins(words(blocks, |b| load_head(b)))
}

/// Of the two words of IQ4_XS's scales.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn of_iq4_xs([d_and_high, low]: [__m256i; 2]) -> EightScales {
    let none = _mm256_setzero_si256();
    let mut scales = [none; 4];
    for w in 0..2 {
        let shuffled = |x, bytes: [usize; 4]| {
            let order = i32::from_le_bytes(bytes.map(|byte| byte as u8));
            // Shuffles see 16 bytes at a time.
            let word = _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
            let order = _mm_add_epi8(_mm_set1_epi32(order), word);
            _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order))
        };
        let low = shuffled(low, [2 * w, 2 * w, 2 * w + 1, 2 * w + 1]);
        let even = _mm256_and_si256(low, _mm256_set1_epi16(0x000f));
        let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(low), _mm256_set1_epi16(0x0f00));
        // Bits 2i and 2i + 1 of a byte to bits 4 and 5 of byte i.
        let high = shuffled(d_and_high, [2 + w; 4]);
        let byte = |x, i: u32| _mm256_and_si256(x, _mm256_set1_epi32(0x30 << (8 * i)));
        let first = byte(_mm256_slli_epi32::<4>(high), 0);
        let second = byte(_mm256_slli_epi32::<2>(high), 1);
        let fourth = byte(_mm256_srli_epi32::<2>(high), 3);
        let top = _mm256_or_si256(first, second);
        let top = _mm256_or_si256(top, _mm256_or_si256(byte(high, 2), fourth));
        let all = _mm256_or_si256(_mm256_or_si256(even, odd), top);
        scales[w] = _mm256_sub_epi8(all, _mm256_set1_epi8(32));
    }
    let [d, _] = pairs_of_halves(d_and_high);
    EightScales { scales, mins: [none; 4], d, dmin: _mm256_setzero_ps() }
}

/// Of the words of an expanded block's scales, and of `d`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn of_expanded<const S: usize>(words: [__m256i; 5]) -> EightScales {
    let none = _mm256_setzero_si256();
    let [a, b, c, d, e] = words;
    let (scales, d) = if S == 8 { ([a, b, none, none], c) } else { ([a, b, c, d], e) };
    EightScales { scales, mins: [none; 4], d: _mm256_castsi256_ps(d), dmin: _mm256_setzero_ps() }
}

/// Of the word of `d` and `dmin` and the three of the scales.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn of_scales_and_mins([halves, a, b, c]: [__m256i; 4]) -> EightScales {
    let (six, nibble, two) = (_mm256_set1_epi8(63), _mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let join = |low, top| {
        let top = _mm256_and_si256(_mm256_srli_epi16::<2>(top), two);
        _mm256_or_si256(_mm256_and_si256(low, nibble), top)
    };
    let none = _mm256_setzero_si256();
    let [d, dmin] = pairs_of_halves(halves);
    EightScales {
        scales: [_mm256_and_si256(a, six), join(c, a), none, none],
        mins: [_mm256_and_si256(b, six), join(_mm256_srli_epi16::<4>(c), b), none, none],
        d,
        dmin,
    }
}

/// The first and the second halves of eight pairs.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn pairs_of_halves(pairs: __m256i) -> [__m256; 2] {
    // Of each 128 bits first the low 16 bits of its words, then the high ones.
    let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
    ));
    let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(pairs, order));
    [
        _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
        _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
    ]
}

/// Word `w` of each of eight blocks' 16 bytes, in register `w`.
#[inline]
#[target_feature(enable = "avx2")]
fn words<B>(blocks: &[&B; 8], bytes: impl Fn(&B) -> __m128i) -> [__m256i; 4] {
    let mut x = [_mm256_setzero_si256(); 4];
    for r in 0..4 {
        x[r] = _mm256_set_m128i(bytes(blocks[r + 4]), bytes(blocks[r]));
    }
    transpose_4(x[0], x[1], x[2], x[3])
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves_8<B: Codes256>(blocks: &[&B; 8]) -> [__m256; 2] {
    let (mut d, mut dmin) = ([F16([0; 2]); 8], [F16([0; 2]); 8]);
    for r in 0..8 {
        [d[r], dmin[r]] = blocks[r].d();
    }
    [halves(d), halves(dmin)]
}
