//! Q5_1: blocks of 32.

use super::{Block, Block32, F16, Unpacked32, nibbles_and_fifth};
use gguf_rs_lite::GgmlType;

/// One block of Q5_1: 32 elements in 24 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: F16,
    /// Minimum.
    pub m: F16,
    /// Fifth bits, bit `i` of the little-endian word is element `i`.
    pub qh: [u8; 4],
    /// Low four bits as in Q4_1; value = d * code + m.
    pub qs: [u8; 16],
}

impl Block for BlockQ5_1 {
    const TY: GgmlType = GgmlType::Q5_1;
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, m } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d + m;
        }
    }
}

impl Block32 for BlockQ5_1 {
    const HAS_MIN: bool = true;

    /// Codes in 0..=31.
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles_and_fifth(&self.qs, &self.qh).map(|q| q as i8);
        Unpacked32 { codes, d: self.d.to_f32(), m: self.m.to_f32() }
    }
}
