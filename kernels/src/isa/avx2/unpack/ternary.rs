//! TQ1_0 and TQ2_0: super-blocks of -1, 0 and 1, with one scale.

use super::super::mem::{load, load_16};
use super::{Codes256, EightScales, Scales, Unsigned256, halves_8, shifted};
use crate::block::*;
use std::arch::x86_64::*;

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
pub(in super::super) fn trits(mut x: __m256i, n: usize) -> __m256i {
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

/// The codes of TQ2_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn tq2_0(b: &BlockTQ2_0, j: usize) -> __m256i {
    let plane = shifted(load(&b.qs[j / 4]), 2 * (j as i32 % 4));
    _mm256_and_si256(plane, _mm256_set1_epi8(3))
}

/// Scales that are all 1.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_of_one() -> Scales {
    Scales { scales: _mm256_set1_epi16(1), mins: _mm256_setzero_si256() }
}

/// The scales of eight blocks of a type that has nothing but `d`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn eight_of_one<B: Codes256>(blocks: &[&B; 8]) -> EightScales {
    const { assert!(B::ONE_SCALE) }
    let [d, _] = halves_8(blocks);
    of_one(d)
}

/// Scales of a type that has nothing but `d`.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn of_one(d: __m256) -> EightScales {
    let none = [_mm256_setzero_si256(); 4];
    EightScales { scales: none, mins: none, d, dmin: _mm256_setzero_ps() }
}
