//! MXFP4: 4.25 bits per weight, the microscaling format of the Open Compute Project: 4-bit floats
//! (E2M1) under a power of two (E8M0) per 32. Value = `d * VALUES[code]`, where values are twice
//! what the floats are and `d` is half of what the exponent says.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::search::{LANES, sum_of_lanes};
use super::{Block, Block32, Unpacked32, nibbles, pack_nibbles};
use gguf_rs_lite::GgmlType;

/// One block of MXFP4: 32 elements in 17 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockMXFP4 {
    /// Exponent: d = 2^(e - 128).
    pub e: u8,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32.
    pub qs: [u8; 16],
}

/// Values that the codes stand for, doubled.
pub(crate) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Block for BlockMXFP4 {
    const TY: GgmlType = GgmlType::MXFP4;
    const LEN: usize = 32;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, .. } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = d * f32::from(q);
        }
    }
}

impl Encode for BlockMXFP4 {
    const GROUP: usize = 32;
    const CODES: usize = 16;

    /// Of the exponent that clips the largest weights (by a third at most) and the next one, which
    /// clips none, the one of the smaller error.
    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, _: f32) -> Scales {
        let costs = importance.map_or([1.0; 32], |w| *all(w));
        let amax = x.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
        // 4 * 2^k <= amax < 8 * 2^k, and the largest float is 6.
        let e = ((amax.to_bits() >> 23) as u8).saturating_sub(2);
        let [low, high] = [e, e + 1].map(scales_of);
        let error = |scales: &Scales| error_of(all(x), &costs, exponent(scales.scales[0]));
        if error(&high) < error(&low) { high } else { low }
    }

    fn compose(groups: &[Group]) -> Scales {
        /// The code of NaN, which is no scale.
        const MAX: u8 = 255;
        let above = |&e: &u8| exponent(e) / 2.0 + exponent(e + 1) / 2.0 <= groups[0].scale;
        scales_of((0..MAX - 1).filter(above).count() as u8)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        Group { scale: exponent(scales.scales[0]), min: 0.0 }
    }

    fn level(code: u8) -> i8 {
        VALUES[usize::from(code)]
    }

    #[inline(always)]
    fn coder(scales: &Scales, g: usize) -> Coder {
        Coder::by_scale(Self::group(scales, g))
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        nearest_code(x / coder.by)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&nibbles(&self.qs));
        scales_of(self.e)
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockMXFP4 {
        BlockMXFP4 { e: scales.scales[0], qs: pack_nibbles(all(codes)) }
    }
}

#[inline(always)]
fn scales_of(e: u8) -> Scales {
    let mut scales = Scales::default();
    scales.scales[0] = e;
    scales
}

/// The scale of an exponent; the last two are below the least normal number.
#[inline]
fn exponent(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 0x0020_0000,
        e => (u32::from(e) - 1) << 23 | u32::from(e == 1) << 22,
    })
}

impl Block32 for BlockMXFP4 {
    const HAS_MIN: bool = false;

    /// Codes in -12..=12.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles(&self.qs).map(|q| VALUES[usize::from(q)]);
        Unpacked32 { codes, d: self.d(), m: 0.0 }
    }
}

impl BlockMXFP4 {
    /// The scale.
    #[inline]
    pub(crate) fn d(&self) -> f32 {
        exponent(self.e)
    }
}

/// The weighted error of the codes nearest to `x` for a scale.
#[inline(always)]
fn error_of(x: &[f32; 32], costs: &[f32; 32], scale: f32) -> f32 {
    let mut sums = [0.0; LANES];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(costs.as_chunks::<LANES>().0) {
        let mut values = [0.0; LANES];
        for (v, bound) in BOUNDS.iter().enumerate() {
            let step = f32::from(VALUES[v + 1] - VALUES[v]);
            for i in 0..LANES {
                values[i] += if (x[i] / scale).abs() > *bound { step } else { 0.0 };
            }
        }
        for i in 0..LANES {
            let error = x[i].abs() - values[i] * scale;
            sums[i] += w[i] * error * error;
        }
    }
    sum_of_lanes(&sums)
}

/// Halfway between the magnitudes.
const BOUNDS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// The code whose value is nearest, the one nearer to zero of two.
#[inline(always)]
pub(super) fn nearest_code(x: f32) -> u8 {
    let mut magnitude = 0;
    for bound in BOUNDS {
        magnitude += u8::from(x.abs() > bound);
    }
    if x < 0.0 && magnitude > 0 { magnitude | 8 } else { magnitude }
}
