//! Q5_0: 5.5 bits per weight, a scale per 32. What Q4_K falls back to in rows that are no multiple
//! of 256. Value = `d * (code - 16)`.

use super::search::{extreme, nearest, symmetric};
use super::{
    Block, Block32, F16, Quantize, Unpacked32, for_each_32, nibbles_and_fifth,
    pack_nibbles_and_fifth,
};
use gguf_rs_lite::GgmlType;

/// One block of Q5_0: 32 elements in 22 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: F16,
    /// Fifth bits, bit `i` of the little-endian word is element `i`.
    pub qh: [u8; 4],
    /// Low four bits as in Q4_0; value = d * (code - 16).
    pub qs: [u8; 16],
}

impl Block for BlockQ5_0 {
    const TY: GgmlType = GgmlType::Q5_0;
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, .. } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d;
        }
    }
}

impl Quantize for BlockQ5_0 {
    /// Without importances the weight of largest magnitude becomes code -16, exactly; with them the
    /// scale is searched.
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockQ5_0]) {
        for_each_32(x, importance, out, |x, costs| match costs {
            None => {
                let d = extreme(x) / -16.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                BlockQ5_0::new(d, x.map(|x| (x * inverse + 16.5).clamp(0.0, 31.0) as u8))
            }
            Some(costs) => {
                let d = symmetric(x, &costs, 16.0);
                let stored = F16::from_f32(d).to_f32();
                let inverse = if stored == 0.0 { 0.0 } else { 1.0 / stored };
                BlockQ5_0::new(d, x.map(|x| (nearest(x * inverse) + 16.0).clamp(0.0, 31.0) as u8))
            }
        });
    }
}

impl Block32 for BlockQ5_0 {
    const HAS_MIN: bool = false;

    /// Codes in -16..=15.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles_and_fifth(&self.qs, &self.qh).map(|q| q as i8 - 16);
        Unpacked32 { codes, d: self.d.to_f32(), m: 0.0 }
    }
}

impl BlockQ5_0 {
    fn new(d: f32, codes: [u8; 32]) -> BlockQ5_0 {
        let (qs, qh) = pack_nibbles_and_fifth(&codes);
        BlockQ5_0 { d: F16::from_f32(d), qh, qs }
    }
}
