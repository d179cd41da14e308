//! The codebook types, IQ1 to IQ3, to codes and scales.
//!
//! Points come one by one from their tables, eight codes or four at a load; all the rest, indices,
//! signs and scales, is done for many at once. Indices go to general registers and points to vectors
//! without a detour over memory: measured, a gather takes twice as long, and so do loads of what a
//! wider store has just written.

use super::mem::{alone, load, load_8, load_16, store, store_16};
use super::unpack::{Wide256, bits, bits_set, half, halves_swapped, two_bits};
use crate::block::codebook;
use crate::block::expanded::{Codebook, Expanded};
use crate::block::*;
use std::arch::x86_64::*;

/// IQ1_S.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::isa) fn iq1_s(b: &BlockIQ1S, wide: &mut Wide256) {
    let (qs, _) = b.qs.as_flattened().as_chunks::<16>();
    let (qh, _) = b.qh.as_flattened().as_chunks::<16>();
    let words = load_16(&qh[0]);
    let each_four = _mm256_setr_epi64x(
        0x0100_0100_0100_0100,
        0x0302_0302_0302_0302,
        0x0504_0504_0504_0504,
        0x0706_0706_0706_0706,
    );
    let mut numbers = [_mm256_setzero_si256(); 2];
    for i in 0..2 {
        // Word `j` four times, its bits `3l` to `3l + 2` at the eighth.
        let order = _mm256_add_epi8(each_four, _mm256_set1_epi8(8 * i as i8));
        let word = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(words), order);
        let up = _mm256_set1_epi64x(1 << 8 | 1 << (16 + 5) | 1 << (32 + 2));
        let (up, down) = (_mm256_mullo_epi16(word, up), _mm256_srli_epi16::<1>(word));
        let high = _mm256_blend_epi16::<0b1000_1000>(up, down);
        let high = _mm256_and_si256(high, _mm256_set1_epi16(0x700));
        numbers[i] = _mm256_or_si256(_mm256_cvtepu8_epi16(load_16(&qs[i])), high);
    }
    let high = _mm256_broadcastsi128_si256(_mm_srai_epi16::<15>(words));
    // The high byte of each word, four times.
    let each_four = _mm256_setr_epi32(
        0x0101_0101,
        0x0303_0303,
        0x0505_0505,
        0x0707_0707,
        0x0909_0909,
        0x0b0b_0b0b,
        0x0d0d_0d0d,
        0x0f0f_0f0f,
    );
    moved(wide, &fours(numbers), _mm256_shuffle_epi8(high, each_four));
    let scales = _mm_and_si128(_mm_srli_epi16::<12>(words), _mm_set1_epi16(7));
    store_16(&mut wide.scales[0], odd(scales));
    wide.d = half(b.d) / 8.0;
}

/// IQ1_M.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::isa) fn iq1_m(b: &BlockIQ1M, wide: &mut Wide256) {
    let (both, low) = (load_16(&b.qh), _mm_set1_epi8(15));
    let (first, second) = (_mm_and_si128(both, low), _mm_and_si128(_mm_srli_epi16::<4>(both), low));
    let (low, high) = (_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second));
    let high = _mm256_set_m128i(high, low);
    let down = _mm256_cmpgt_epi8(high, _mm256_set1_epi8(7));
    moved(wide, &fours(numbers(&b.qs, high)), down);
    let (words, _) = b.scales.as_flattened().as_chunks();
    let words = load_8(&words[0]);
    let twice = _mm_unpacklo_epi16(words, words);
    // Three bits to the top and down again: those from bits 0 and 6 on, from 3 and 9 on.
    for (scales, [first, second]) in wide.scales.iter_mut().zip([[13, 7], [10, 4]]) {
        let up = _mm_set1_epi32(1 << first | 1 << (16 + second));
        store_16(scales, odd(_mm_srli_epi16::<13>(_mm_mullo_epi16(twice, up))));
    }
    wide.d = half(b.d()) / 8.0;
}

/// IQ2_XXS.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::isa) fn iq2_xxs(b: &BlockIQ2XXS, wide: &mut Wide256) {
    let (halves, _) = b.qs.as_flattened().as_chunks::<32>();
    let halves = [load(&halves[0]), load(&halves[1])];
    let [first, second] = halves.map(|x| _mm256_castsi256_ps(x));
    let words = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(first, second));
    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
    let point = |i: usize| codebook::IQ2_XXS[usize::from(alone(&b.qs[i / 4][i % 4]))] as i64;
    signed(wide, even_signs(words), |k| _mm_set_epi64x(point(2 * k + 1), point(2 * k)));
    store_16(&mut wide.scales[0], top_scales(words));
    wide.d = half(b.d) / 8.0;
}

/// IQ2_XS.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::isa) fn iq2_xs(b: &BlockIQ2XS, wide: &mut Wide256) {
    let (words, _) = b.qs.as_flattened().as_chunks::<32>();
    let words = [load(&words[0]), load(&words[1])];
    let [first, second] = words.map(|x| _mm256_srli_epi16::<9>(x));
    let seven = _mm256_packus_epi16(first, second);
    let seven = _mm256_permute4x64_epi64::<0b11_01_10_00>(seven);
    let fours = fours(words);
    signed(wide, with_parity(seven), |k| two_of(&codebook::IQ2_XS, &fours, k));
    odd_16(&b.scales, wide);
    wide.d = half(b.d) / 8.0;
}

/// IQ2_S.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::isa) fn iq2_s(b: &BlockIQ2S, wide: &mut Wide256) {
    let fours = fours(numbers(&b.qs, two_bits(&b.qh)));
    signed(wide, load(&b.signs), |k| two_of(&codebook::IQ2_S, &fours, k));
    odd_16(&b.scales, wide);
    wide.d = half(b.d) / 8.0;
}

/// IQ3_XXS.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::isa) fn iq3_xxs(b: &BlockIQ3XXS, wide: &mut Wide256) {
    let (words, _) = b.signs_and_scales.as_flattened().as_chunks::<32>();
    let words = load(&words[0]);
    let point = |i: usize| codebook::IQ3_XXS[usize::from(alone(&b.qs[i / 2][i % 2]))] as i32;
    signed(wide, even_signs(words), |k| {
        _mm_setr_epi32(point(4 * k), point(4 * k + 1), point(4 * k + 2), point(4 * k + 3))
    });
    store_16(&mut wide.scales[0], top_scales(words));
    wide.d = half(b.d) / 4.0;
}

/// IQ3_S.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::isa) fn iq3_s(b: &BlockIQ3S, wide: &mut Wide256) {
    let ((qs, _), (qh, _)) = (b.qs.as_flattened().as_chunks(), b.qh.as_chunks());
    let fours = [fours(numbers(&qs[0], bits(&qh[0], 1))), fours(numbers(&qs[1], bits(&qh[1], 1)))];
    signed(wide, load(&b.signs), |k| {
        let point = |n| entry(&codebook::IQ3_S, fours[k / 8][k % 8], n) as i32;
        _mm_setr_epi32(point(0), point(1), point(2), point(3))
    });
    let both = _mm_cvtsi32_si128(i32::from_le_bytes(b.scales));
    let both = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(both, _mm_srli_epi16::<4>(both)));
    store_16(&mut wide.scales[0], odd(_mm_and_si128(both, _mm_set1_epi16(15))));
    wide.d = half(b.d);
}

/// An expanded block of any of them.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn expanded<B: Codebook, const S: usize>(
    b: &Expanded<B, S>,
    wide: &mut Wide256,
) {
    wide.put_nibbles(&b.qs, &B::VALUES);
    let (eights, _) = b.scales.as_chunks::<8>();
    if B::GROUP == 32 {
        store_16(&mut wide.scales[0], _mm_cvtepu8_epi16(load_8(&eights[0])));
    } else {
        let both = _mm_unpacklo_epi64(load_8(&eights[0]), load_8(&eights[1]));
        store_16(&mut wide.scales[0], _mm_and_si128(both, _mm_set1_epi16(0xff)));
        store_16(&mut wide.scales[1], _mm_srli_epi16::<8>(both));
    }
    wide.d = b.d();
}

/// A block written out.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn expand<B: Codebook, const S: usize>(wide: &Wide256, out: &mut Expanded<B, S>) {
    let (qs, _) = out.qs.as_flattened_mut().as_chunks_mut::<32>();
    let shift = _mm_cvtsi32_si128(B::SHIFT as i32);
    for i in 0..4 {
        // Nibbles: what is left of the magnitude, and the sign on top.
        let nibbles = |half: usize| {
            let index = _mm256_srl_epi16(load(&wide.magnitudes[i][half]), shift);
            let sign = _mm256_srli_epi16::<4>(load(&wide.signs[i][half]));
            let (index, sign) = (
                _mm256_and_si256(index, _mm256_set1_epi8(7)),
                _mm256_and_si256(sign, _mm256_set1_epi8(8)),
            );
            _mm256_or_si256(index, sign)
        };
        store(&mut qs[i], _mm256_or_si256(nibbles(0), _mm256_slli_epi16::<4>(nibbles(1))));
    }
    let (first, second) = (load_16(&wide.scales[0]), load_16(&wide.scales[1]));
    let bytes = match B::GROUP {
        32 => _mm_packus_epi16(first, first),
        _ => _mm_or_si128(first, _mm_slli_epi16::<8>(second)),
    };
    let mut scales = [0u8; 16];
    store_16(&mut scales, bytes);
    out.scales.copy_from_slice(&scales[..S]);
    out.d = wide.d.to_le_bytes();
}

/// The codes of a super-block from magnitudes `16k..16k + 16`, and a byte of signs for each eight.
#[inline]
#[target_feature(enable = "avx2")]
fn signed(wide: &mut Wide256, signs: __m256i, sixteen: impl Fn(usize) -> __m128i) {
    for_each(signs, sixteen, |i, half, magnitudes, signs| {
        store(&mut wide.magnitudes[i][half], magnitudes);
        let signs = _mm256_or_si256(bits_set(signs), _mm256_set1_epi8(1));
        store(&mut wide.signs[i][half], signs);
    });
}

/// The codes of IQ1 from four indices at a time to points, eight times the values plus 8: an eighth
/// down where all bits of a point's byte are set, up where none is.
#[inline]
#[target_feature(enable = "avx2")]
fn moved(wide: &mut Wide256, fours: &[u64; 8], down: __m256i) {
    let up = _mm256_add_epi8(_mm256_add_epi8(down, down), _mm256_set1_epi8(-7));
    let sixteen = |k| two_of(&codebook::IQ1, fours, k);
    for_each(up, sixteen, |i, half, points, up| wide.put(i, half, _mm256_add_epi8(points, up)));
}

/// `f` of each register of [`Wide256`], `16k..16k + 16` being its halves, and of the bytes for each
/// eight elements, eight times each.
#[inline]
#[target_feature(enable = "avx2")]
fn for_each(
    bytes: __m256i,
    sixteen: impl Fn(usize) -> __m128i,
    mut f: impl FnMut(usize, usize, __m256i, __m256i),
) {
    const EACH: [[u8; 32]; 2] = [each_eight([0, 1, 4, 5]), each_eight([2, 3, 6, 7])];
    let mut eights = [[0; 8]; 4];
    store(&mut eights, bytes);
    for i in 0..4 {
        let eight = _mm256_set1_epi64x(i64::from_le_bytes(eights[i]));
        for half in 0..2 {
            let k = 4 * i + half;
            let elements = _mm256_set_m128i(sixteen(k + 2), sixteen(k));
            f(i, half, elements, _mm256_shuffle_epi8(eight, load(&EACH[half])));
        }
    }
}

/// Points `2k` and `2k + 1` of eight.
#[inline]
#[target_feature(enable = "avx2")]
fn two_of<const N: usize>(table: &[u64; N], fours: &[u64; 8], k: usize) -> __m128i {
    let point = |n| entry(table, fours[k / 2], k % 2 * 2 + n) as i64;
    _mm_set_epi64x(point(1), point(0))
}

/// The entry of the `n`th of four indices of 16 bits, whose low ones count.
#[inline(always)]
fn entry<T: Copy, const N: usize>(table: &[T; N], four: u64, n: usize) -> T {
    const { assert!(N.is_power_of_two() && N <= 1 << 16) }
    let low = four & (0x0001_0001_0001_0001 * (N as u64 - 1));
    table[usize::from((low >> (16 * n)) as u16)]
}

/// 32 numbers of 16 bits in general registers, four to each.
#[inline]
#[target_feature(enable = "avx2")]
fn fours([a, b]: [__m256i; 2]) -> [u64; 8] {
    let halves = |x| (_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let two = |x| [_mm_cvtsi128_si64(x) as u64, _mm_extract_epi64::<1>(x) as u64];
    let ((a, b), (c, d)) = (halves(a), halves(b));
    let ([a, b], [c, d], [e, f], [g, h]) = (two(a), two(b), two(c), two(d));
    [a, b, c, d, e, f, g, h]
}

/// The shuffle that repeats four bytes eight times each.
const fn each_eight(bytes: [u8; 4]) -> [u8; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = bytes[i / 8];
        i += 1;
    }
    order
}

/// Numbers of 16 bits from their halves.
#[inline]
#[target_feature(enable = "avx2")]
fn numbers(low: &[u8; 32], high: __m256i) -> [__m256i; 2] {
    let low = load(low);
    halves_swapped([_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)])
}

/// The signs of words of four times seven and a scale: a byte for each eight.
#[inline]
#[target_feature(enable = "avx2")]
fn even_signs(words: __m256i) -> __m256i {
    let seven = |x, byte: u32| _mm256_and_si256(x, _mm256_set1_epi32(127 << (8 * byte)));
    let low = _mm256_or_si256(seven(words, 0), seven(_mm256_slli_epi32::<1>(words), 1));
    let (third, fourth) = (_mm256_slli_epi32::<2>(words), _mm256_slli_epi32::<3>(words));
    with_parity(_mm256_or_si256(low, _mm256_or_si256(seven(third, 2), seven(fourth, 3))))
}

/// Bytes of seven signs with the eighth that makes their number even.
#[inline]
#[target_feature(enable = "avx2")]
fn with_parity(seven: __m256i) -> __m256i {
    const ODD: u8 = 0x80;
    const PARITY: [u8; 16] = {
        let mut parity = [0; 16];
        let mut nibble = 0u32;
        while nibble < 16 {
            parity[nibble as usize] = nibble.count_ones() as u8 % 2 * ODD;
            nibble += 1;
        }
        parity
    };
    let (parity, low) = (_mm256_broadcastsi128_si256(load_16(&PARITY)), _mm256_set1_epi8(15));
    let first = _mm256_shuffle_epi8(parity, _mm256_and_si256(seven, low));
    let last = _mm256_and_si256(_mm256_srli_epi16::<4>(seven), low);
    let last = _mm256_shuffle_epi8(parity, last);
    _mm256_xor_si256(seven, _mm256_xor_si256(first, last))
}

/// Scales `2s + 1` from the top four bits of words.
#[inline]
#[target_feature(enable = "avx2")]
fn top_scales(words: __m256i) -> __m128i {
    let scales = _mm256_srli_epi32::<28>(words);
    let (low, high) = (_mm256_castsi256_si128(scales), _mm256_extracti128_si256::<1>(scales));
    odd(_mm_packs_epi32(low, high))
}

/// Scales `2s + 1` of groups of 16 from nibbles, low ones first.
#[inline]
#[target_feature(enable = "avx2")]
fn odd_16(nibbles: &[u8; 8], wide: &mut Wide256) {
    let (both, low) = (load_8(nibbles), _mm_set1_epi8(15));
    for (scales, nibbles) in wide.scales.iter_mut().zip([both, _mm_srli_epi16::<4>(both)]) {
        store_16(scales, odd(_mm_cvtepu8_epi16(_mm_and_si128(nibbles, low))));
    }
}

/// `2s + 1`.
#[inline]
#[target_feature(enable = "sse2")]
fn odd(scales: __m128i) -> __m128i {
    _mm_add_epi16(_mm_add_epi16(scales, scales), _mm_set1_epi16(1))
}
