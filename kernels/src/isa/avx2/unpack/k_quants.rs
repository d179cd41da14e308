//! Q2_K to Q6_K: planes of bits, and the scales and minimums that each packs in its own way.

use super::super::mem::{load, load_16, load_head, load_tail};
use super::super::sum::transpose_4;
use super::{Codes256, EightScales, Scales, Unsigned256, halves_8, pairs_of_halves, shifted};
use crate::block::*;
use std::arch::x86_64::*;

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
pub(super) use codes_256;

codes_256! {
    BlockQ2K: 0, 3, |b| [b.d, b.dmin];
    BlockQ3K: 4, 7, |b| [b.d, F16([0; 2])];
    BlockQ4K: 0, 15, |b| [b.d, b.dmin];
    BlockQ5K: 0, 31, |b| [b.d, b.dmin];
    BlockQ6K: 32, 63, |b| [b.d, F16([0; 2])];
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
pub(in super::super) fn eight_q2_k(blocks: &[&BlockQ2K; 8]) -> EightScales {
    of_q2_k(words(blocks, |b| load_16(&b.scales)), halves_8(blocks))
}

/// Scales of Q2_K from their four words.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn of_q2_k(words: [__m256i; 4], [d, dmin]: [__m256; 2]) -> EightScales {
    let (low, none) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
    let (mut scales, mut mins) = ([none; 4], [none; 4]);
    for w in 0..4 {
        scales[w] = _mm256_and_si256(words[w], low);
        mins[w] = _mm256_and_si256(_mm256_srli_epi16::<4>(words[w]), low);
    }
    EightScales { scales, mins, d, dmin }
}

/// The scales of eight blocks of Q3_K: see the scalar `unpack_scales`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn eight_q3_k(blocks: &[&BlockQ3K; 8]) -> EightScales {
    // Two bytes of codes, three words of scales, `d`.
    let [x, y, z, w] = words(blocks, |b| load_tail(b));
    let join =
        |low, high| _mm256_or_si256(_mm256_srli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
    let [d, _] = halves_8(blocks);
    of_q3_k([join(x, y), join(y, z), join(z, w)], d)
}

/// Scales of Q3_K from their three words.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn of_q3_k([a, b, top]: [__m256i; 3], d: __m256) -> EightScales {
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
pub(in super::super) fn eight_q6_k(blocks: &[&BlockQ6K; 8]) -> EightScales {
    let [d, _] = halves_8(blocks);
    of_q6_k(words(blocks, |b| load_16(&b.scales)), d)
}

/// Scales of Q6_K from their four words.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn of_q6_k(scales: [__m256i; 4], d: __m256) -> EightScales {
    EightScales { scales, mins: [_mm256_setzero_si256(); 4], d, dmin: _mm256_setzero_ps() }
}

/// The scales of eight blocks that begin as those of Q4_K and Q5_K do.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn eight_scales_and_mins<B: Block>(blocks: &[&B; 8]) -> EightScales {
    of_scales_and_mins(words(blocks, |b| load_head(b)))
}

/// Scales of Q4_K and Q5_K from the word of `d` and `dmin` and the three of the scales.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn of_scales_and_mins([halves, a, b, c]: [__m256i; 4]) -> EightScales {
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
