//! Q8_K: blocks of 256.

use super::Block;
use gguf_rs_lite::GgmlType;

/// One block of Q8_K: 256 elements in 292 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ8K {
    /// Scale, little-endian f32.
    pub d: [u8; 4],
    /// Value = d * code.
    pub qs: [i8; 256],
    /// Sums of 16 codes, little-endian i16.
    pub bsums: [[u8; 2]; 16],
}

impl Block for BlockQ8K {
    const TY: GgmlType = GgmlType::Q8_K;
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f32::from_le_bytes(self.d);
        for (y, q) in out.iter_mut().zip(self.qs) {
            *y = d * f32::from(q);
        }
    }
}
