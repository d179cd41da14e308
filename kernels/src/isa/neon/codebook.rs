//! The codebook types, IQ1 to IQ3, to codes and scales.
//!
//! Points come one by one from their tables, four or two words to a register; signs, moves and
//! scales are made for 32 elements or a super-block at once.

use super::unpack::{Codes256, Scales, codes_256, masks, pair};
use super::vector::*;
use crate::block::codebook::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use crate::block::*;

codes_256! {
    BlockIQ1S: true, |b| {
        let (words, _) = b.qh.as_flattened().as_chunks();
        let scales = vshrq_n_u16::<12>(vreinterpretq_u16_u8(load_u8(&words[0])));
        Scales::without_min(odd(low_bytes([scales; 2]), 7), half(b.d) / 8.0)
    }, j {
        let word = u16::from_le_bytes(b.qh[j]);
        let indices = indices(four(b.qs[j]), word, &[0, -3, -6, -9, 0, 0, 0, 0])[0];
        let offset = vdupq_n_s8(7 + 2 * (word >> 15) as i8);
        eights(|l| IQ1[(indices >> (16 * l)) as usize & 2047]).map(|x| vsubq_s8(x, offset))
    };
    BlockIQ1M: true, |b| Scales::without_min(scales_iq1_m(&b.scales), half(b.d()) / 8.0), j {
        let bytes = [b.qh[2 * j], b.qh[2 * j + 1]];
        let (qs, _) = b.qs.as_chunks();
        let high = u16::from_le_bytes(bytes);
        let indices = indices(four(qs[j]), high, &[0, -4, -8, -12, 0, 0, 0, 0])[0];
        let [x, x_2] = eights(|l| IQ1[(indices >> (16 * l)) as usize & 2047]);
        // Of a byte the top bits of either nibble.
        let tops = join(u64::from_le_bytes([8; 8]), u64::from_le_bytes([128; 8]));
        let moved = |x: int8x16_t, byte: u8| {
            let down = vtstq_u8(vdupq_n_u8(byte), vreinterpretq_u8_s8(tops));
            vsubq_s8(x, vbslq_s8(down, vdupq_n_s8(9), vdupq_n_s8(7)))
        };
        [moved(x, bytes[0]), moved(x_2, bytes[1])]
    };
    BlockIQ2XXS: false, |b| {
        let (low, high) = (pair(b.qs.as_flattened(), 0), pair(b.qs.as_flattened(), 1));
        let [low, high] = [low, high].map(odd_bytes);
        let tops = odd_bytes([odd_bytes([low, high]); 2]);
        Scales::without_min(odd(vshrq_n_u8::<4>(tops), 15), half(b.d) / 8.0)
    }, j {
        let [p, p_2, p_3, p_4, signs @ ..] = b.qs[j];
        let points = [p, p_2, p_3, p_4];
        signed(eights(|l| IQ2_XXS[usize::from(points[l])]), even_signs(signs))
    };
    BlockIQ2XS: false, |b| Scales::without_min(odd_nibbles(b.scales), half(b.d) / 8.0), j {
        let (words, _) = b.qs.as_flattened().as_chunks::<8>();
        let words = u64::from_le_bytes(words[j]);
        let point = |l: usize| IQ2_XS[(words >> (16 * l)) as usize & 511];
        let negative = eights(|l| EVEN_SIGNS[(words >> (16 * l + 9)) as usize & 127]);
        signed(eights(point), negative)
    };
    BlockIQ2S: false, |b| Scales::without_min(odd_nibbles(b.scales), half(b.d) / 8.0), j {
        let (qs, _) = b.qs.as_chunks();
        let high = u16::from(b.qh[j]);
        let indices = indices(four(qs[j]), high, &[0, -2, -4, -6, 0, 0, 0, 0])[0];
        let point = |l: usize| IQ2_S[(indices >> (16 * l)) as usize & 1023];
        signed(eights(point), signs(&b.signs, j))
    };
    BlockIQ3XXS: false, |b| {
        let tops = odd_bytes([odd_bytes(pair(b.signs_and_scales.as_flattened(), 0)); 2]);
        Scales::without_min(odd(vshrq_n_u8::<4>(tops), 15), half(b.d) / 4.0)
    }, j {
        let (qs, _) = b.qs.as_flattened().as_chunks::<8>();
        let point = |p: usize| IQ3_XXS[usize::from(qs[j][p])];
        signed(fours(point), even_signs(b.signs_and_scales[j]))
    };
    BlockIQ3S: true, |b| {
        let [s, s_2, s_3, s_4] = b.scales;
        Scales::without_min(odd_nibbles([s, s_2, s_3, s_4, 0, 0, 0, 0]), half(b.d))
    }, j {
        let (qs, _) = b.qs.as_flattened().as_chunks::<8>();
        let ninth = u16::from(b.qh[j]);
        let low = u64::from_le_bytes(qs[j]);
        let indices = indices(low, ninth, &[0, -1, -2, -3, -4, -5, -6, -7]);
        let point = |p: usize| IQ3_S[(indices[p / 4] >> (16 * (p % 4))) as usize & 511];
        signed(fours(point), signs(&b.signs, j))
    };
}

/// Indices of up to eight points, the lowest bits of 16 each: bytes `low`, and above them the
/// lowest bits of `high`, shifted by `by`, down where that is negative.
#[inline(always)]
fn indices(low: u64, high: u16, by: &[i16; 8]) -> [u64; 2] {
    let high = vshlq_u16(vdupq_n_u16(high), load_s16(by));
    halves_of_words(vsliq_n_u16::<8>(widen_bytes(low), high))
}

/// Four bytes, then zeros.
#[inline(always)]
fn four(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_le_bytes(bytes))
}

/// Points of eight.
#[inline(always)]
fn eights(point: impl Fn(usize) -> u64) -> [int8x16_t; 2] {
    [join(point(0), point(1)), join(point(2), point(3))]
}

/// Points of four.
#[inline(always)]
fn fours(point: impl Fn(usize) -> u32) -> [int8x16_t; 2] {
    [
        words([point(0), point(1), point(2), point(3)]),
        words([point(4), point(5), point(6), point(7)]),
    ]
}

/// Magnitudes, negative where the mask says so.
#[inline(always)]
fn signed([a, b]: [int8x16_t; 2], [m, m_2]: [int8x16_t; 2]) -> [int8x16_t; 2] {
    // The complement plus one. Saturation, which nothing comes near, hides from the compiler what
    // this is: its own way to change signs takes an instruction more.
    let signed = |x, mask| vqsubq_s8(veorq_s8(x, mask), mask);
    [signed(a, m), signed(b, m_2)]
}

/// The signs of 32 elements, a bit each.
#[inline(always)]
fn signs(signs: &[u8; 32], j: usize) -> [int8x16_t; 2] {
    let (signs, _) = signs.as_chunks();
    masks(&signs[j]).map(vreinterpretq_s8_u8)
}

/// The signs of 32 elements, of eight seven bits each.
#[inline(always)]
fn even_signs(word: [u8; 4]) -> [int8x16_t; 2] {
    let word = u32::from_le_bytes(word);
    eights(|l| EVEN_SIGNS[(word >> (7 * l)) as usize & 127])
}

/// Of seven signs, and the eighth that makes their number even, all bits of a byte each.
static EVEN_SIGNS: [u64; 128] = {
    let mut all = [0; 128];
    let mut seven = 0;
    while seven < all.len() {
        let bits = seven | (seven.count_ones() as usize & 1) << 7;
        let mut i = 0;
        while i < 8 {
            if bits >> i & 1 == 1 {
                all[seven] |= 0xff << (8 * i);
            }
            i += 1;
        }
        seven += 1;
    }
    all
};

/// Scales `2 * bits + 1` of the bits `mask`.
#[inline(always)]
fn odd(scales: uint8x16_t, mask: u8) -> int8x16_t {
    let twice = vshlq_n_u8::<1>(vandq_u8(scales, vdupq_n_u8(mask)));
    vreinterpretq_s8_u8(vorrq_u8(twice, vdupq_n_u8(1)))
}

/// [`odd`] scales of nibbles, low ones first.
#[inline(always)]
fn odd_nibbles(nibbles: [u8; 8]) -> int8x16_t {
    let low = join(u64::from_le_bytes(nibbles), 0);
    let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s8(low)));
    let [both, _] = zip_bytes(low, high);
    odd(vreinterpretq_u8_s8(both), 15)
}

/// Four scales of three bits in each word.
#[inline(always)]
fn scales_iq1_m(words: &[[u8; 2]; 4]) -> int8x16_t {
    const FOUR_TIMES: [u8; 16] = [0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3];
    let (words, _) = words.as_flattened().as_chunks();
    let words = join(u64::from_le_bytes(words[0]), 0);
    let scales = |words: int8x16_t| {
        let words = vqtbl1q_s8(words, load_u8(&FOUR_TIMES));
        let down = load_s16(&[0, -3, -6, -9, 0, -3, -6, -9]);
        vshlq_u16(vreinterpretq_u16_s8(words), down)
    };
    odd(low_bytes([scales(words), scales(vextq_s8::<4>(words, words))]), 7)
}

/// The low bytes of words.
#[inline(always)]
fn low_bytes([a, b]: [uint16x8_t; 2]) -> uint8x16_t {
    vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b))
}

/// Every second byte.
#[inline(always)]
fn odd_bytes([a, b]: [uint8x16_t; 2]) -> uint8x16_t {
    vuzp2q_u8(a, b)
}
