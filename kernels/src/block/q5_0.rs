//! Q5_0: blocks of 32.

use super::{Block, Block32, F16, Unpacked32, nibbles_and_fifth};
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

impl Block32 for BlockQ5_0 {
    const HAS_MIN: bool = false;

    /// Codes in -16..=15.
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles_and_fifth(&self.qs, &self.qh).map(|q| q as i8 - 16);
        Unpacked32 { codes, d: self.d.to_f32(), m: 0.0 }
    }
}
