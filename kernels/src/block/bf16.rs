//! BF16: the upper half of an IEEE single.

use super::{Block, Float, Quantize};
use gguf_rs_lite::GgmlType;

/// The bits of a bfloat16, little-endian, with alignment 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub [u8; 2]);

impl Block for Bf16 {
    const TY: GgmlType = GgmlType::BF16;
    const LEN: usize = 1;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        out[0] = self.to_f32();
    }
}

impl Quantize for Bf16 {
    #[inline(always)]
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [Bf16]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = Bf16::from_f32(x);
        }
    }
}

impl Float for Bf16 {
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16)
    }

    fn from_f32(x: f32) -> Bf16 {
        Bf16(half::bf16::from_f32(x).to_le_bytes())
    }
}
