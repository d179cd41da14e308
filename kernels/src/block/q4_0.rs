//! Q4_0: blocks of 32.

use super::{Block, Block32, F16, Unpacked32, nibbles};
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

impl Block32 for BlockQ4_0 {
    const HAS_MIN: bool = false;

    /// Codes in -8..=7.
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles(&self.qs).map(|q| q as i8 - 8);
        Unpacked32 { codes, d: self.d.to_f32(), m: 0.0 }
    }
}
