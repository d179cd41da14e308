//! Native blocks to codes and scales in registers: signed codes, 32 to a pair of registers in the
//! order of the elements. The types of codebooks are in [`super::codebook`].

use super::vector::*;
use crate::block::*;

/// An integer type in blocks of 32.
pub(in crate::isa) trait Codes32: Block32 {
    /// Whether codes are so small that 16 products fit an i16: at most 16.
    const SMALL: bool;
    /// The codes, any offset taken off.
    fn codes(&self) -> [int8x16_t; 2];
    /// Scales and minimums of four blocks.
    fn scales(blocks: [&Self; 4]) -> [float32x4_t; 2];
}

/// An integer type in super-blocks of 256.
pub(in crate::isa) trait Codes256: Block256 {
    /// Whether codes are so small that 16 products, or 8 under a scale per 16, fit an i16: at most
    /// 16, or 32.
    const SMALL: bool;
    /// Its scales.
    fn scales(&self) -> Scales;
    /// Elements `32j..32j + 32`, any offset taken off.
    fn codes(&self, j: usize) -> [int8x16_t; 2];
}

/// An integer type in blocks of several times 32 with scales of their own: codes of at most 16.
pub(in crate::isa) trait Codes16: Block16 {
    /// Elements `32j..32j + 32`, any offset taken off.
    fn codes(&self, j: usize) -> [int8x16_t; 2];
    /// Of four blocks, the scales of each 16 elements there are.
    fn scales(blocks: [&Self; 4]) -> [float32x4_t; SCALES_16_MAX];
}

/// Groups of 16 in the longest block of [`Codes16`].
pub(in crate::isa) const SCALES_16_MAX: usize = BlockQ1_0::LEN / 16;

/// The scales and minimums of a super-block, one per group: 8 or 16 of them.
pub(in crate::isa) struct Scales {
    scales: int8x16_t,
    mins: int8x16_t,
    d: f32,
    dmin: f32,
}

impl Scales {
    #[inline(always)]
    pub(super) fn without_min(scales: int8x16_t, d: f32) -> Scales {
        Scales { scales, mins: vdupq_n_s8(0), d, dmin: 0.0 }
    }
}

/// The scales of four super-blocks, one of each of four rows, a row per lane.
#[derive(Default)]
pub(in crate::isa) struct FourScales {
    pub scales: [[f32; 4]; 16],
    pub mins: [[f32; 4]; 16],
    pub d: [f32; 4],
    pub dmin: [f32; 4],
}

impl FourScales {
    /// Unpacks blocks in place, because half a KiB is not to be moved.
    #[inline(always)]
    pub fn set<B: Codes256>(&mut self, blocks: [&B; 4]) {
        let (mut scales, mut mins) = ([vdupq_n_s8(0); 4], [vdupq_n_s8(0); 4]);
        for r in 0..4 {
            let row = blocks[r].scales();
            (scales[r], mins[r]) = (row.scales, row.mins);
            (self.d[r], self.dmin[r]) = (row.d, row.dmin);
        }
        by_group::<B>(scales, &mut self.scales);
        if B::HAS_MIN {
            by_group::<B>(mins, &mut self.mins);
        }
    }
}

/// Byte `g` of four rows to four floats, for each group.
#[inline(always)]
fn by_group<B: Block256>([a, b, c, d]: [int8x16_t; 4], out: &mut [[f32; 4]; 16]) {
    let (ac, bd) = (zip_bytes(a, c), zip_bytes(b, d));
    for half in 0..B::LEN / B::GROUP / 8 {
        let words = zip_bytes(ac[half], bd[half]);
        for i in 0..2 {
            let [a, b] = widen(vmovl_s8(vget_low_s8(words[i])));
            let [c, d] = widen(vmovl_high_s8(words[i]));
            for (out, four) in out[8 * half + 4 * i..].iter_mut().zip([a, b, c, d]) {
                store_f32(out, vcvtq_f32_s32(four));
            }
        }
    }
}

macro_rules! codes_32 {
    ($($block:ident: $small:literal, |$b:ident| $codes:expr, |$four:ident| $scales:expr;)*) => {$(
        impl Codes32 for $block {
            const SMALL: bool = $small;
            #[inline(always)]
            fn codes(&self) -> [int8x16_t; 2] {
                let $b = self;
                $codes
            }
            #[inline(always)]
            fn scales($four: [&Self; 4]) -> [float32x4_t; 2] {
                $scales
            }
        }
    )*};
}

codes_32! {
    BlockQ4_0: true, |b| nibbles(&b.qs).map(|x| less(x, 8)), |b| only_d(b.map(|b| b.d));
    BlockQ4_1: true, |b| nibbles(&b.qs).map(vreinterpretq_s8_u8),
        |b| [halves(b.map(|b| b.d)), halves(b.map(|b| b.m))];
    BlockQ5_0: true, |b| nibbles_and_fifth(&b.qs, &b.qh).map(|x| less(x, 16)),
        |b| only_d(b.map(|b| b.d));
    BlockQ5_1: false, |b| nibbles_and_fifth(&b.qs, &b.qh).map(vreinterpretq_s8_u8),
        |b| [halves(b.map(|b| b.d)), halves(b.map(|b| b.m))];
    BlockQ8_0: false, |b| {
        let (codes, _) = b.qs.as_chunks();
        [load(&codes[0]), load(&codes[1])]
    }, |b| only_d(b.map(|b| b.d));
    BlockIQ4NL: false, |b| values(&iq4_nl::VALUES, &b.qs), |b| only_d(b.map(|b| b.d));
    BlockMXFP4: true, |b| values(&mxfp4::VALUES, &b.qs),
        |b| [load_f32(&b.map(|b| b.d())), vdupq_n_f32(0.0)];
}

macro_rules! codes_256 {
    ($($block:ident: $small:literal, |$b:ident| $scales:expr, $j:ident $codes:expr;)*) => {$(
        impl Codes256 for $block {
            const SMALL: bool = $small;
            #[inline(always)]
            fn scales(&self) -> Scales {
                let $b = self;
                $scales
            }
            #[inline(always)]
            fn codes(&self, $j: usize) -> [int8x16_t; 2] {
                let $b = self;
                $codes
            }
        }
    )*};
}
pub(super) use codes_256;

codes_256! {
    BlockQ2K: true, |b| {
        let both = load_u8(&b.scales);
        let scales = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
        let mins = vreinterpretq_s8_u8(vshrq_n_u8::<4>(both));
        Scales { scales, mins, d: half(b.d), dmin: half(b.dmin) }
    }, j pair(&b.qs, j / 4).map(|x| vreinterpretq_s8_u8(bits(x, 2 * (j % 4), 3)));
    BlockQ3K: true, |b| Scales::without_min(scales_q3_k(&b.scales), half(b.d)), j {
        let ([low, low_2], [high, high_2]) = (pair(&b.qs, j / 4), pair(&b.hmask, 0));
        let code = |low, high| {
            let third = vshlq_u8(bits(high, j, 1), vdupq_n_s8(2));
            less(vorrq_u8(bits(low, 2 * (j % 4), 3), third), 4)
        };
        [code(low, high), code(low_2, high_2)]
    };
    BlockQ4K: true, |b| {
        let [scales, mins] = scales_and_mins(&b.scales);
        Scales { scales, mins, d: half(b.d), dmin: half(b.dmin) }
    }, j pair(&b.qs, j / 2).map(|x| vreinterpretq_s8_u8(bits(x, 4 * (j % 2), 15)));
    BlockQ5K: false, |b| {
        let [scales, mins] = scales_and_mins(&b.scales);
        Scales { scales, mins, d: half(b.d), dmin: half(b.dmin) }
    }, j {
        let ([low, low_2], [high, high_2]) = (pair(&b.qs, j / 2), pair(&b.qh, 0));
        let code = |low, high| {
            let fifth = vshlq_u8(bits(high, j, 1), vdupq_n_s8(4));
            vreinterpretq_s8_u8(vorrq_u8(bits(low, 4 * (j % 2), 15), fifth))
        };
        [code(low, high), code(low_2, high_2)]
    };
    BlockQ6K: true, |b| Scales::without_min(load(&b.scales), half(b.d)), j {
        let (part, plane) = (j / 4, j % 4);
        let ([low, low_2], [top, top_2]) =
            (pair(&b.ql, 2 * part + plane % 2), pair(&b.qh, part));
        let code = |low, top| {
            let top = vshlq_u8(bits(top, 2 * plane, 3), vdupq_n_s8(4));
            less(vorrq_u8(bits(low, 4 * (plane / 2), 15), top), 32)
        };
        [code(low, top), code(low_2, top_2)]
    };
    BlockIQ4XS: false, |b| {
        let scales = vsubq_s8(join(u64::from_le_bytes(b.scales()), 0), vdupq_n_s8(32));
        Scales::without_min(scales, half(b.d))
    }, j values(&iq4_nl::VALUES, &b.qs[j]);
    BlockTQ1_0: true, |b| Scales::without_min(vdupq_n_s8(1), half(b.d)), j match j {
        0..5 => pair(&b.first, 0).map(|x| trits(x, vdupq_n_u8(tq1_0::POWERS[j]))),
        5 | 6 => [2 * j - 10, 2 * j - 9].map(|n| {
            trits(load_u8(&b.second), vdupq_n_u8(tq1_0::POWERS[n]))
        }),
        _ => {
            let power = |i: usize| tq1_0::POWERS[i / 4];
            let third = vreinterpretq_u8_s8(repeat(&b.third));
            [
                trits(load_u8(&b.second), vdupq_n_u8(tq1_0::POWERS[4])),
                trits(third, load_u8(&std::array::from_fn(power))),
            ]
        }
    };
    BlockTQ2_0: true, |b| Scales::without_min(vdupq_n_s8(1), half(b.d)),
        j pair(&b.qs[j / 4], 0).map(|x| less(bits(x, 2 * (j % 4), 3), 1));
}

macro_rules! codes_16 {
    ($($block:ident: |$b:ident, $j:ident| $codes:expr, |$four:ident| $scales:expr;)*) => {$(
        impl Codes16 for $block {
            #[inline(always)]
            fn codes(&self, $j: usize) -> [int8x16_t; 2] {
                let $b = self;
                $codes
            }
            #[inline(always)]
            fn scales($four: [&Self; 4]) -> [float32x4_t; SCALES_16_MAX] {
                $scales
            }
        }
    )*};
}

codes_16! {
    BlockQ1_0: |b, j| {
        let (set, clear) = (vdupq_n_s8(1), vdupq_n_s8(-1));
        masks(&b.qs[j]).map(|is_set| vbslq_s8(is_set, set, clear))
    }, |b| [halves(b.map(|b| b.d)); SCALES_16_MAX];
    BlockQ2_0: |b, j| {
        // Each byte four times, then of the four one pair of bits each.
        let bytes = vreinterpretq_u8_s8(join(u64::from_le_bytes(b.qs[j]), 0));
        let by = load(&[0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6]);
        FOUR_TIMES.map(|of| {
            let x = vreinterpretq_u8_s8(vqtbl1q_s8(vreinterpretq_s8_u8(bytes), load_u8(&of)));
            less(vandq_u8(vshlq_u8(x, by), vdupq_n_u8(3)), 1)
        })
    }, |b| [halves(b.map(|b| b.d)); SCALES_16_MAX];
    BlockNVFP4: |b, j| {
        let values = load(&mxfp4::VALUES);
        let (both, _) = b.qs.as_flattened().as_chunks::<16>();
        let [low, high] = nibbles(&both[j]).map(|index| vqtbl1q_s8(values, index));
        zip_halves(low, high)
    }, |b| scales_nvfp4(b.map(|b| b.d));
}

/// The scales of a type that has no minimums.
#[inline(always)]
fn only_d(d: [F16; 4]) -> [float32x4_t; 2] {
    [halves(d), vdupq_n_f32(0.0)]
}

/// Low nibbles, then high ones.
#[inline(always)]
fn nibbles(qs: &[u8; 16]) -> [uint8x16_t; 2] {
    let both = load_u8(qs);
    [vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8::<4>(both)]
}

/// [`nibbles`] with the bits of `qh` above them.
#[inline(always)]
fn nibbles_and_fifth(qs: &[u8; 16], qh: &[u8; 4]) -> [uint8x16_t; 2] {
    let ([low, high], [fifth, fifth_2]) = (nibbles(qs), masks(qh));
    let sixteen = vdupq_n_u8(16);
    [vorrq_u8(low, vandq_u8(fifth, sixteen)), vorrq_u8(high, vandq_u8(fifth_2, sixteen))]
}

/// Masks of bits, lowest first: each bit as all bits of a byte.
#[inline(always)]
pub(super) fn masks(bits: &[u8; 4]) -> [uint8x16_t; 2] {
    /// The byte that has an element's bit.
    const BYTE: [[u8; 16]; 2] = [
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
        [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
    ];
    const BIT: u64 = 0x8040_2010_0804_0201;
    let (bytes, bit) = (repeat(bits), vreinterpretq_u8_s8(join(BIT, BIT)));
    BYTE.map(|byte| vtstq_u8(vreinterpretq_u8_s8(vqtbl1q_s8(bytes, load_u8(&byte))), bit))
}

/// Trits less one: the first ones of the fractions `x * power`, see [`tq1_0`].
#[inline(always)]
fn trits(x: uint8x16_t, power: uint8x16_t) -> int8x16_t {
    // In units of 1/256: below one third, from two thirds on. Masks are -1.
    let x = vmulq_u8(x, power);
    let (low, high) = (vcltq_u8(x, vdupq_n_u8(86)), vcgeq_u8(x, vdupq_n_u8(171)));
    vsubq_s8(vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high))
}

/// Four blocks' scales: as halves with the four bits of the exponent, which are then those of
/// 2^-7 times the number. See the scalar `scale`.
#[inline(always)]
fn scales_nvfp4(d: [[u8; 4]; 4]) -> [float32x4_t; SCALES_16_MAX] {
    const BY_GROUP: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
    let (rows, _) = d.as_flattened().as_chunks();
    let codes = vqtbl1q_s8(vreinterpretq_s8_u8(load_u8(&rows[0])), load_u8(&BY_GROUP));
    let is_nan = vceqq_s8(codes, vdupq_n_s8(0x7f));
    let codes = vbicq_u8(vandq_u8(vreinterpretq_u8_s8(codes), vdupq_n_u8(0x7f)), is_nan);
    let mut scales = [vdupq_n_f32(0.0); SCALES_16_MAX];
    for (scale, x) in scales.iter_mut().zip(halves_of(codes)) {
        *scale = vmulq_f32(x, vdupq_n_f32(128.0));
    }
    scales
}

/// Indices of four bytes, each four times: the first four bytes and those behind them.
const FOUR_TIMES: [[u8; 16]; 2] = [
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
    [4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7],
];

/// What nibbles stand for.
#[inline(always)]
fn values(values: &[i8; 16], qs: &[u8; 16]) -> [int8x16_t; 2] {
    nibbles(qs).map(|index| vqtbl1q_s8(load(values), index))
}

/// Codes less an offset.
#[inline(always)]
fn less(codes: uint8x16_t, offset: i8) -> int8x16_t {
    vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(offset))
}

/// Bytes `32i..32i + 32`.
#[inline(always)]
pub(super) fn pair(bytes: &[u8], i: usize) -> [uint8x16_t; 2] {
    let (sixteen, _) = bytes.as_chunks();
    [load_u8(&sixteen[2 * i]), load_u8(&sixteen[2 * i + 1])]
}

/// The bits `mask` from bit `at` of every byte.
#[inline(always)]
fn bits(x: uint8x16_t, at: usize, mask: u8) -> uint8x16_t {
    vandq_u8(vshlq_u8(x, vdupq_n_s8(-(at as i8))), vdupq_n_u8(mask))
}

/// See the scalar `unpack_scales`.
#[inline(always)]
fn scales_q3_k(packed: &[u8; 12]) -> int8x16_t {
    let [a, b, top] = words(packed);
    let (nibble, two) = (0x0f0f_0f0f, 0x0303_0303);
    let scales = [
        a & nibble | (top & two) << 4,
        b & nibble | (top >> 2 & two) << 4,
        a >> 4 & nibble | (top >> 4 & two) << 4,
        b >> 4 & nibble | (top >> 6 & two) << 4,
    ];
    vsubq_s8(join(long(scales[0], scales[1]), long(scales[2], scales[3])), vdupq_n_s8(32))
}

/// The eight scales and the eight minimums of Q4_K and Q5_K.
#[inline(always)]
fn scales_and_mins(packed: &[u8; 12]) -> [int8x16_t; 2] {
    let [a, b, c] = words(packed);
    let (six, nibble, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let scales = long(a & six, c & nibble | (a >> 6 & two) << 4);
    let mins = long(b & six, c >> 4 & nibble | (b >> 6 & two) << 4);
    [join(scales, 0), join(mins, 0)]
}

#[inline(always)]
fn words(packed: &[u8; 12]) -> [u32; 3] {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| packed[4 * i + j]));
    [word(0), word(1), word(2)]
}

#[inline(always)]
fn long(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
