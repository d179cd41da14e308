//! One file per quant type: layout, dequantize, encode and the unpacked form that specifies its
//! dot product. [`encode`] is what quantizers have in common.
//!
//! A weight row is a whole number of blocks. An integer type is unpacked to small integer codes
//! plus a few scales ([`Unpacked32`], [`Unpacked256`], rarely [`Unpacked16`]); [`dot32`], [`dot256`]
//! and [`dot16`] add the codes
//! times the quantized activations exactly, 32 of them at a time, and then walk one chain of f32
//! [`fma()`]s, block after block. Every faster kernel of an integer type returns these bits. Float
//! weights ([`F32`], [`F16`], [`Bf16`]) follow [`crate::float`]'s order of lanes instead.
//!
//! Cost: one pass, no allocation. Lengths that do not fit panic: they are the caller's invariants.
//! Scales may be any bits, NaN and infinity included; results then are what IEEE makes of them.

use crate::float::fma;
use gguf_rs_lite::GgmlType;

pub mod bf16;
mod book;
pub(crate) mod codebook;
pub mod encode;
pub(crate) mod expanded;
pub mod f16;
// A module named `f32` would hide the primitive type in this file.
#[path = "f32.rs"]
pub mod f32_;
pub mod iq1_m;
pub mod iq1_s;
pub mod iq2_s;
pub mod iq2_xs;
pub mod iq2_xxs;
pub mod iq3_s;
pub mod iq3_xxs;
pub mod iq4_nl;
pub mod iq4_xs;
mod lattice;
pub mod mxfp4;
pub mod nvfp4;
#[cfg(test)]
pub mod pretend;
pub mod q1_0;
pub mod q2_0;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub mod q8_1;
pub mod q8_k;
mod search;
mod side_by_side;
pub mod tq1_0;
pub mod tq2_0;
pub(crate) mod two_of_four;

pub use encode::{Encode, Encoder, Group, Scales};
pub use q8_1::BlockQ8_1;
pub use q8_k::BlockQ8K;
pub(crate) use search::nearest;

/// The list of weight types, a row each: `file::block: shape`. The shape says how scalar code
/// multiplies the type and how it is written: a function of that name in `isa/scalar.rs`.
/// Whatever is made for every type is made from these rows, by the macro that is given them.
///
/// A row makes its block [`plain::Plain`]: a block is `repr(C)` or `repr(transparent)` over arrays of
/// i8 and u8.
macro_rules! weight_types {
    ($rows:ident) => {
        $rows! {
            f32_::F32: floats;
            f16::F16: floats;
            bf16::Bf16: floats;
            q4_0::BlockQ4_0: blocks_32;
            q4_1::BlockQ4_1: blocks_32;
            q5_0::BlockQ5_0: blocks_32;
            q5_1::BlockQ5_1: blocks_32;
            q8_0::BlockQ8_0: blocks_32;
            q2_k::BlockQ2K: blocks_256;
            q3_k::BlockQ3K: blocks_256;
            q4_k::BlockQ4K: blocks_256;
            q5_k::BlockQ5K: blocks_256;
            q6_k::BlockQ6K: blocks_256;
            iq4_nl::BlockIQ4NL: blocks_32;
            iq4_xs::BlockIQ4XS: blocks_256;
            mxfp4::BlockMXFP4: blocks_32;
            iq1_s::BlockIQ1S: codebook_256;
            iq1_m::BlockIQ1M: codebook_256;
            iq2_xxs::BlockIQ2XXS: codebook_256;
            iq2_xs::BlockIQ2XS: codebook_256;
            iq2_s::BlockIQ2S: codebook_256;
            iq3_xxs::BlockIQ3XXS: codebook_256;
            iq3_s::BlockIQ3S: codebook_256;
            tq1_0::BlockTQ1_0: blocks_256;
            tq2_0::BlockTQ2_0: blocks_256;
            q1_0::BlockQ1_0: blocks_16;
            q2_0::BlockQ2_0: blocks_16;
            nvfp4::BlockNVFP4: blocks_16;
            #[cfg(test)]
            pretend::BlockPretend: blocks_32;
        }
    };
}
pub(crate) use weight_types;

macro_rules! exports {
    ($($(#[$cfg:meta])* $file:ident::$block:ident: $shape:ident;)*) => {
        $($(#[$cfg])* pub use $file::$block;)*
    };
}
weight_types!(exports);

/// One block of a type, laid out as in files.
pub trait Block: plain::Plain {
    /// The type.
    const TY: GgmlType;
    /// Elements in a block.
    const LEN: usize;

    /// The values of the block; `out` has `LEN` elements, as [`dequantize_row`] sees to.
    fn dequantize(&self, out: &mut [f32]);
}

/// A type that rows can be quantized to. Integer types of weights have it by [`Encode`], those with
/// codebooks by a search of points (`lattice.rs`).
pub trait Quantize: Block {
    /// The blocks nearest to the row `x` of `LEN * out.len()` elements, as [`quantize_row`] sees to.
    /// `importance` is how much an error counts per column (an importance matrix: mean squares of
    /// the activations); types whose method has no use for it ignore it.
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]);
}

/// An integer type in blocks of 32.
pub trait Block32: Block {
    /// Whether the type has a minimum; without one `Unpacked32::m` is zero and takes no part.
    const HAS_MIN: bool;

    /// The codes and scales.
    fn unpack(&self) -> Unpacked32;
}

/// An integer type in blocks of several times 32, with no more than a scale per 16.
pub trait Block16: Block {
    /// The codes and scales of elements `32j..32j + 32`.
    fn unpack(&self, j: usize) -> Unpacked16;

    /// [`Block::dequantize`] by [`Block16::unpack`].
    #[inline(always)]
    fn dequantize_parts(&self, out: &mut [f32]) {
        for (j, out) in out.chunks_exact_mut(32).enumerate() {
            let Unpacked16 { codes, d } = self.unpack(j);
            for (i, (y, q)) in out.iter_mut().zip(codes).enumerate() {
                *y = d[i / 16] * f32::from(q);
            }
        }
    }
}

/// An integer type in super-blocks of 256.
pub trait Block256: Block {
    /// Elements under one scale and one minimum: 16 or 32.
    const GROUP: usize;
    /// Whether the type has minimums; without them `mins` and `dmin` are zero and take no part.
    const HAS_MIN: bool;

    /// The codes, sub-scales and scales.
    fn unpack(&self) -> Unpacked256;
}

/// A float weight, for activations in f32.
pub trait Float: Block {
    /// The value, exactly.
    fn to_f32(self) -> f32;
    /// The nearest value of the type, ties to even.
    fn from_f32(x: f32) -> Self;
}

/// A block of 32: value `i` is `d * codes[i] + m`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unpacked32 {
    /// Codes, any offset of the type already taken off.
    pub codes: [i8; 32],
    /// Scale.
    pub d: f32,
    /// Minimum.
    pub m: f32,
}

/// 32 elements of a longer block: value `i` is `d[i / 16] * codes[i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unpacked16 {
    /// Codes, any offset of the type already taken off.
    pub codes: [i8; 32],
    /// Scales of the first and of the last 16 codes.
    pub d: [f32; 2],
}

/// A super-block of 256: value `i` is `d * scales[i / 16] * codes[i] - dmin * mins[i / 16]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unpacked256 {
    /// Codes, any offset of the type already taken off.
    pub codes: [i8; 256],
    /// Scale of each 16 codes; types with one per 32 repeat it.
    pub scales: [i16; 16],
    /// Minimum of each 16 codes, likewise.
    pub mins: [i16; 16],
    /// Scale of the scales.
    pub d: f32,
    /// Scale of the minimums.
    pub dmin: f32,
}

/// 32 quantized activations: value `i` is `d * q[i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Act32 {
    /// Codes.
    pub q: [i8; 32],
    /// Scale.
    pub d: f32,
    /// Sums of the first and of the last 16 codes.
    pub sums: [i16; 2],
}

impl Act32 {
    /// A block of activations, with the sums of its codes.
    pub fn new(q: [i8; 32], d: f32) -> Act32 {
        let sum = |q: &[i8]| q.iter().map(|&q| i16::from(q)).sum();
        Act32 { q, d, sums: [sum(&q[..16]), sum(&q[16..])] }
    }

    /// The sum of all codes.
    pub fn sum(&self) -> i16 {
        self.sums[0] + self.sums[1]
    }
}

impl Unpacked32 {
    /// `sum(codes * q)`, exact: at most 32 * 128 * 128.
    pub fn isum(&self, act: &Act32) -> i32 {
        idot(&self.codes, &act.q)
    }

    /// One step of the chain of [`dot32`]: with `da` the activations' scale,
    /// `acc += (d * da) * isum`, then with a minimum `acc += (m * da) * sum`.
    pub fn step<B: Block32>(&self, acc: f32, act: &Act32) -> f32 {
        let acc = fma(self.d * act.d, self.isum(act) as f32, acc);
        if B::HAS_MIN { fma(self.m * act.d, f32::from(act.sum()), acc) } else { acc }
    }
}

impl Unpacked16 {
    /// Two steps of the chain of [`dot16`]: for each 16 codes `acc += (d * da) * sum(codes * q)`.
    pub fn step(&self, acc: f32, act: &Act32) -> f32 {
        let (codes, q) = (self.codes.chunks_exact(16), act.q.chunks_exact(16));
        let halves = codes.zip(q).zip(self.d);
        halves.fold(acc, |acc, ((c, q), d)| fma(d * act.d, idot(c, q) as f32, acc))
    }
}

impl Unpacked256 {
    /// A super-block of a type without minimums.
    #[inline]
    pub(crate) fn without_min(codes: [i8; 256], scales: [i16; 16], d: f32) -> Unpacked256 {
        Unpacked256 { codes, scales, mins: [0; 16], d, dmin: 0.0 }
    }

    /// `sum(scale * codes * q)` of elements `32j..32j + 32`: at most 32 * 127 * 32 * 128 < 2^24 in
    /// any type, so as a float it is exact, too.
    pub fn isum(&self, j: usize, act: &Act32) -> i32 {
        let (codes, q) = (self.codes.chunks_exact(16).skip(2 * j), act.q.chunks_exact(16));
        let groups = codes.zip(q).zip(&self.scales[2 * j..]);
        groups.map(|((c, q), &s)| i32::from(s) * idot(c, q)).sum()
    }

    /// One step of the chain of [`dot256`]: from `t = 0` and `u = 0`, 32 elements after the other,
    /// `t += isum * da` and for each minimum `u += min * (da * sum)`, the sum of the codes it is
    /// taken from; then `acc += d * t`, and with minimums `acc += -dmin * u`.
    pub fn step<B: Block256>(&self, acc: f32, acts: &[Act32; 8]) -> f32 {
        let (mut t, mut u) = (0f32, 0f32);
        for (j, act) in acts.iter().enumerate() {
            t = fma(self.isum(j, act) as f32, act.d, t);
            let mut take = |min: i16, sum: i16| {
                u = fma(f32::from(min), act.d * f32::from(sum), u);
            };
            match (B::HAS_MIN, B::GROUP) {
                (false, _) => {}
                (true, 32) => take(self.mins[2 * j], act.sum()),
                (true, _) => {
                    take(self.mins[2 * j], act.sums[0]);
                    take(self.mins[2 * j + 1], act.sums[1]);
                }
            }
        }
        let acc = fma(self.d, t, acc);
        if B::HAS_MIN { fma(-self.dmin, u, acc) } else { acc }
    }

    /// The 256 values, with the roundings of ggml's loops: `(d * scale) * code`, and with minimums
    /// `- (dmin * min)`.
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32], has_min: bool) {
        let groups = out.chunks_exact_mut(16).zip(self.codes.chunks_exact(16));
        for (i, (out, codes)) in groups.enumerate() {
            let scale = self.d * f32::from(self.scales[i]);
            let min = self.dmin * f32::from(self.mins[i]);
            for (y, &q) in out.iter_mut().zip(codes) {
                let product = scale * f32::from(q);
                *y = if has_min { product - min } else { product };
            }
        }
    }
}

fn idot(codes: &[i8], q: &[i8]) -> i32 {
    codes.iter().zip(q).map(|(&c, &q)| i32::from(c) * i32::from(q)).sum()
}

/// A row of blocks of 32 times as many blocks of activations.
pub fn dot32<B: Block32>(row: &[B], acts: &[Act32]) -> f32 {
    assert!(acts.len() == row.len(), "activations fit the row");
    let steps = row.iter().zip(acts);
    steps.fold(0.0, |acc, (block, act)| block.unpack().step::<B>(acc, act))
}

/// A row of blocks of several times 32.
pub fn dot16<B: Block16>(row: &[B], acts: &[Act32]) -> f32 {
    assert!(acts.len() == row.len() * (B::LEN / 32), "activations fit the row");
    let parts = B::LEN / 32;
    let steps = acts.iter().enumerate();
    steps.fold(0.0, |acc, (i, act)| row[i / parts].unpack(i % parts).step(acc, act))
}

/// A row of super-blocks times eight times as many blocks of activations.
pub fn dot256<B: Block256>(row: &[B], acts: &[Act32]) -> f32 {
    let (acts, rest) = acts.as_chunks();
    assert!(acts.len() == row.len() && rest.is_empty(), "activations fit the row");
    let steps = row.iter().zip(acts);
    steps.fold(0.0, |acc, (block, acts)| block.unpack().step::<B>(acc, acts))
}

/// A row of float weights times an f32 row, in [`crate::float`]'s order.
pub fn dot_float<W: Float>(row: &[W], x: &[f32]) -> f32 {
    assert!(x.len() == row.len(), "activations fit the row");
    crate::float::dot_of(row, x, W::to_f32)
}

/// The values of whole blocks given as bytes.
#[inline(always)]
pub fn dequantize_row<B: Block>(bytes: &[u8], out: &mut [f32]) {
    let row = as_blocks::<B>(bytes);
    assert!(out.len() == B::LEN * row.len(), "the output has the blocks' length");
    for (block, out) in row.iter().zip(out.chunks_exact_mut(B::LEN)) {
        block.dequantize(out);
    }
}

/// The row `x` quantized to whole blocks as bytes; `importance` has a value per column.
#[inline(always)]
pub fn quantize_row<B: Quantize>(x: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let row = as_blocks_mut::<B>(bytes);
    assert!(x.len() == B::LEN * row.len(), "the output has the row's length");
    assert!(importance.is_none_or(|w| w.len() == x.len()), "an importance per column");
    B::quantize(x, importance, row);
}

/// The blocks that `bytes` hold: any alignment, any bits, a whole number of them.
pub fn as_blocks<B: Block>(bytes: &[u8]) -> &[B] {
    assert!(bytes.len().is_multiple_of(size_of::<B>()), "whole blocks of {}", B::TY);
    // SAFETY: `Plain` types have alignment 1, no padding and no invalid bits; the count was
    // checked to fill `bytes` exactly, whose lifetime and sharing the result inherits.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<B>()) }
}

/// As [`as_blocks`], to be written.
pub fn as_blocks_mut<B: Block>(bytes: &mut [u8]) -> &mut [B] {
    assert!(bytes.len().is_multiple_of(size_of::<B>()), "whole blocks of {}", B::TY);
    let count = bytes.len() / size_of::<B>();
    // SAFETY: as in `as_blocks`; the exclusive borrow of `bytes` lasts as long as the result, and
    // any block leaves initialized bytes behind.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), count) }
}

/// Structs that are nothing but bytes. Only this file can add one.
mod plain {
    /// # Safety
    /// The type has alignment 1, no padding, and every bit pattern is a value.
    pub unsafe trait Plain: Copy {}

    macro_rules! plain {
        ($($(#[$cfg:meta])* $file:ident::$block:ident: $shape:ident;)*) => {$(
            $(#[$cfg])*
            const _: () = {
                use super::{$block, Block};
                assert!(size_of::<$block>() == <$block as Block>::TY.block_bytes());
                assert!(<$block as Block>::LEN == <$block as Block>::TY.block_len());
                assert!(align_of::<$block>() == 1);
            };
            $(#[$cfg])*
            // SAFETY: `repr(C)` or `repr(transparent)` over arrays of i8 and u8 only, as the list
            // says of its rows; alignment 1, which was just checked, leaves no room for padding.
            unsafe impl Plain for super::$block {}
        )*};
    }

    super::weight_types!(plain);
    // Blocks of activations.
    plain! {
        q8_1::BlockQ8_1: blocks_32;
        q8_k::BlockQ8K: blocks_256;
    }
    // SAFETY: `repr(C)` of arrays of u8, and of nothing.
    unsafe impl<B: Copy, const S: usize> Plain for super::expanded::Expanded<B, S> {}
}

/// The 32 codes of 16 bytes: low nibbles first, then high ones.
#[inline(always)]
pub(crate) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    let mut codes = [0; 32];
    let (low, high) = codes.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        (*low, *high) = (q & 15, q >> 4);
    }
    codes
}

/// [`nibbles`] with the bits of `qh` above them: bit `i` belongs to element `i`.
#[inline(always)]
pub(crate) fn nibbles_and_fifth(qs: &[u8; 16], qh: &[u8; 4]) -> [u8; 32] {
    let mut codes = nibbles(qs);
    for (codes, &high) in codes.as_chunks_mut().0.iter_mut().zip(qh) {
        *codes = (u64::from_le_bytes(*codes) | bytes_of_bits(high) << 4).to_le_bytes();
    }
    codes
}

/// Byte `i` is 1 if bit `i` is set, else 0.
#[inline(always)]
pub(crate) fn bytes_of_bits(bits: u8) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Byte i keeps bit i alone, and 127 more carry into the top one.
    let alone = (u64::from(bits) * EACH) & 0x8040_2010_0804_0201;
    let carried = (alone & (127 * EACH)) + 127 * EACH;
    ((carried | alone) >> 7) & EACH
}

/// The inverse of [`nibbles`].
#[inline(always)]
pub(crate) fn pack_nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| codes[i] & 15 | codes[i + 16] << 4)
}

/// The inverse of [`nibbles_and_fifth`].
#[inline(always)]
pub(crate) fn pack_nibbles_and_fifth(codes: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let high = codes.iter().rev().fold(0, |bits, code| bits << 1 | u32::from(code >> 4));
    (pack_nibbles(codes), high.to_le_bytes())
}

/// The (scale, minimum) of eight groups of 32, 6 bits each, as Q4_K and Q5_K pack them: the first
/// four scales and minimums in the low 6 bits of bytes 0..8; of the last four the low nibbles in
/// bytes 8..12 and the high two bits on top of bytes 0..8.
#[inline]
pub(crate) fn scales_and_mins(packed: &[u8; 12]) -> [(u8, u8); 8] {
    std::array::from_fn(|i| match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => {
            let (scale_top, min_top) = (packed[i - 4] >> 6, packed[i] >> 6);
            (packed[i + 4] & 15 | scale_top << 4, packed[i + 4] >> 4 | min_top << 4)
        }
    })
}

/// The inverse of [`scales_and_mins`].
#[inline(always)]
pub(crate) fn pack_scales_and_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | mins[i - 4] << 4,
    })
}

/// Scales `2 * nibble + 1` of 16 groups, low nibbles first.
#[inline]
pub(crate) fn odd_scales(nibbles: &[u8; 8]) -> [i16; 16] {
    std::array::from_fn(|i| i16::from(2 * (nibbles[i / 2] >> (4 * (i % 2)) & 15) + 1))
}

/// Two entries, for two groups of 16, of each scale that covers 32.
#[inline]
pub(crate) fn twice(per_32: [u8; 8]) -> [i16; 16] {
    std::array::from_fn(|i| i16::from(per_32[i / 2]))
}
