//! Q4_0: 4.5 bits per weight, a scale per 32. What Q2_K and Q3_K fall back to in rows that are no
//! multiple of 256. Value = `d * (code - 8)`, so the largest magnitude is exact and its opposite
//! clips.

use super::search::{extreme, nearest, symmetric};
use super::{Block, Block32, F16, Quantize, Unpacked32, for_each_32, nibbles, pack_nibbles};
use gguf_rs_lite::GgmlType;

/// One block of Q4_0: 32 elements in 18 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: F16,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32; value = d * (code - 8).
    pub qs: [u8; 16],
}

impl Block for BlockQ4_0 {
    const TY: GgmlType = GgmlType::Q4_0;
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, .. } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d;
        }
    }
}

impl Quantize for BlockQ4_0 {
    /// Without importances the weight of largest magnitude becomes code -8, exactly; with them the
    /// scale is searched.
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockQ4_0]) {
        for_each_32(x, importance, out, |x, costs| match costs {
            None => {
                let d = extreme(x) / -8.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                BlockQ4_0::new(d, x.map(|x| (x * inverse + 8.5).clamp(0.0, 15.0) as u8))
            }
            Some(costs) => {
                let d = symmetric(x, &costs, 8.0);
                let stored = F16::from_f32(d).to_f32();
                let inverse = if stored == 0.0 { 0.0 } else { 1.0 / stored };
                BlockQ4_0::new(d, x.map(|x| (nearest(x * inverse) + 8.0).clamp(0.0, 15.0) as u8))
            }
        });
    }
}

impl Block32 for BlockQ4_0 {
    const HAS_MIN: bool = false;

    /// Codes in -8..=7.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles(&self.qs).map(|q| q as i8 - 8);
        Unpacked32 { codes, d: self.d.to_f32(), m: 0.0 }
    }
}

impl BlockQ4_0 {
    fn new(d: f32, codes: [u8; 32]) -> BlockQ4_0 {
        BlockQ4_0 { d: F16::from_f32(d), qs: pack_nibbles(&codes) }
    }
}
