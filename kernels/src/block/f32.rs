//! F32: weights as they are, in the byte order of files.

use super::{Block, Float, Quantize};
use gguf_rs_lite::GgmlType;

/// The bits of an IEEE single, little-endian, with alignment 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F32(pub [u8; 4]);

impl Block for F32 {
    const TY: GgmlType = GgmlType::F32;
    const LEN: usize = 1;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        out[0] = self.to_f32();
    }
}

impl Quantize for F32 {
    #[inline(always)]
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [F32]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = F32::from_f32(x);
        }
    }
}

impl Float for F32 {
    fn to_f32(self) -> f32 {
        f32::from_le_bytes(self.0)
    }

    fn from_f32(x: f32) -> F32 {
        F32(x.to_le_bytes())
    }
}
