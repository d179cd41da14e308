//! Q8_1: blocks of 32.

use super::{Block, F16};
use gguf_rs_lite::GgmlType;

/// One block of Q8_1: 32 elements in 36 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ8_1 {
    /// Scale.
    pub d: F16,
    /// D * sum of the codes.
    pub s: F16,
    /// Value = d * code.
    pub qs: [i8; 32],
}

impl Block for BlockQ8_1 {
    const TY: GgmlType = GgmlType::Q8_1;
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in out.iter_mut().zip(self.qs) {
            *y = f32::from(q) * d;
        }
    }
}
