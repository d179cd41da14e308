//! F16: IEEE halves, both a weight type and the scale of most quant blocks.

use super::{Block, Float, Quantize};
use gguf_rs_lite::GgmlType;

/// The bits of an IEEE half, little-endian as in files, with alignment 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub [u8; 2]);

impl F16 {
    /// The value; every half is exact in f32.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        crate::float::half_to_f32(u16::from_le_bytes(self.0))
    }

    /// The nearest half, ties to even.
    #[inline(always)]
    pub fn from_f32(x: f32) -> F16 {
        F16(crate::float::half_of_f32(x).to_le_bytes())
    }
}

impl Block for F16 {
    const TY: GgmlType = GgmlType::F16;
    const LEN: usize = 1;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        out[0] = F16::to_f32(*self);
    }
}

impl Quantize for F16 {
    #[inline(always)]
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [F16]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = F16::from_f32(x);
        }
    }
}

impl Float for F16 {
    fn to_f32(self) -> f32 {
        F16::to_f32(self)
    }

    fn from_f32(x: f32) -> F16 {
        F16::from_f32(x)
    }
}
