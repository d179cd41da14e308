//! Q8_1: Q8_0 with the sum of its values beside it, ggml's activations for types with a minimum. No
//! weights come in it and nothing here computes with it: dots take plain slices.

use super::{Block, F16, Quantize, search::extreme};
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

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in out.iter_mut().zip(self.qs) {
            *y = f32::from(q) * d;
        }
    }
}

impl Quantize for BlockQ8_1 {
    /// As Q8_0, with the sum.
    #[inline(always)]
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [BlockQ8_1]) {
        for (x, block) in x.as_chunks::<32>().0.iter().zip(out) {
            let d = extreme(x).abs() / 127.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            let qs = x.map(|x| (x * inverse).round() as i8);
            let sum: i32 = qs.iter().map(|&q| i32::from(q)).sum();
            *block = BlockQ8_1 { d: F16::from_f32(d), s: F16::from_f32(sum as f32 * d), qs };
        }
    }
}
