//! Q8_K: 8 bits and an f32 scale per 256, with sums of 16 codes: ggml's activations for super-
//! blocks. No weights come in it and nothing here computes with it: dots take plain slices.

use super::search::{extreme, nearest};
use super::{Block, Quantize};
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

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let d = f32::from_le_bytes(self.d);
        for (y, q) in out.iter_mut().zip(self.qs) {
            *y = d * f32::from(q);
        }
    }
}

impl Quantize for BlockQ8K {
    /// The weight of largest magnitude becomes -127, so the scale may be negative.
    #[inline(always)]
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [BlockQ8K]) {
        for (x, block) in x.as_chunks::<256>().0.iter().zip(out) {
            let max = extreme(x);
            let inverse = if max == 0.0 { 0.0 } else { -127.0 / max };
            let d = if max == 0.0 { 0.0 } else { 1.0 / inverse };
            let qs = x.map(|x| nearest(inverse * x).clamp(-127.0, 127.0) as i8);
            let groups = qs.as_chunks::<16>().0;
            let bsums = std::array::from_fn(|i| {
                groups[i].iter().map(|&q| i16::from(q)).sum::<i16>().to_le_bytes()
            });
            *block = BlockQ8K { d: d.to_le_bytes(), qs, bsums };
        }
    }
}
