//! Q4_1: 5 bits per weight, a scale and a minimum per 32. Value = `d * code + m`.

use super::search::{FINE_GRID, affine, nearest, range};
use super::{Block, Block32, F16, Quantize, Unpacked32, for_each_32, nibbles, pack_nibbles};
use gguf_rs_lite::GgmlType;

/// One block of Q4_1: 32 elements in 20 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: F16,
    /// Minimum.
    pub m: F16,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32; value = d * code + m.
    pub qs: [u8; 16],
}

impl Block for BlockQ4_1 {
    const TY: GgmlType = GgmlType::Q4_1;
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, m } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d + m;
        }
    }
}

impl Quantize for BlockQ4_1 {
    /// Without importances the codes span least to largest; with them scale and minimum are
    /// searched.
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockQ4_1]) {
        for_each_32(x, importance, out, |x, costs| match costs {
            None => {
                let (min, max) = range(x);
                let d = (max - min) / 15.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                let codes = x.map(|x| ((x - min) * inverse + 0.5).clamp(0.0, 15.0) as u8);
                BlockQ4_1::new(d, min, codes)
            }
            Some(costs) => {
                let (d, min) = affine(x, &costs, 15.0, &FINE_GRID);
                let (stored, m) = (F16::from_f32(d).to_f32(), F16::from_f32(-min).to_f32());
                let inverse = if stored == 0.0 { 0.0 } else { 1.0 / stored };
                let codes = x.map(|x| nearest((x - m) * inverse).clamp(0.0, 15.0) as u8);
                BlockQ4_1::new(d, -min, codes)
            }
        });
    }
}

impl Block32 for BlockQ4_1 {
    const HAS_MIN: bool = true;

    /// Codes in 0..=15.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles(&self.qs).map(|q| q as i8);
        Unpacked32 { codes, d: self.d.to_f32(), m: self.m.to_f32() }
    }
}

impl BlockQ4_1 {
    fn new(d: f32, m: f32, codes: [u8; 32]) -> BlockQ4_1 {
        BlockQ4_1 { d: F16::from_f32(d), m: F16::from_f32(m), qs: pack_nibbles(&codes) }
    }
}
