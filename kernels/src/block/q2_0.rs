//! Q2_0: 2.25 bits per weight, a scale per 64. Value = `d * (code - 1)`.

use super::search::extreme;
use super::{Block, Block16, F16, Quantize, Unpacked16};
use gguf_rs_lite::GgmlType;

/// One block of Q2_0: 64 elements in 18 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ2_0 {
    /// Scale.
    pub d: F16,
    /// Codes of 2 bits, the first one lowest.
    pub qs: [[u8; 8]; 2],
}

impl Block for BlockQ2_0 {
    const TY: GgmlType = GgmlType::Q2_0;
    const LEN: usize = 64;

    fn dequantize(&self, out: &mut [f32]) {
        Self::dequantize_parts(self, out);
    }
}

impl Quantize for BlockQ2_0 {
    /// The largest magnitude is the scale; importances are ignored.
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [BlockQ2_0]) {
        for (x, block) in x.as_chunks::<64>().0.iter().zip(out) {
            let d = extreme(x).abs();
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            let codes = x.map(|x| ((x * inverse).round() + 1.0).clamp(0.0, 3.0) as u8);
            let byte = |i: usize| (0..4).fold(0, |byte, k| byte | codes[4 * i + k] << (2 * k));
            let qs = std::array::from_fn(|j| std::array::from_fn(|i| byte(8 * j + i)));
            *block = BlockQ2_0 { d: F16::from_f32(d), qs };
        }
    }
}

impl Block16 for BlockQ2_0 {
    /// Codes in -1..=2.
    #[inline]
    fn unpack(&self, j: usize) -> Unpacked16 {
        let codes = std::array::from_fn(|i| (self.qs[j][i / 4] >> (2 * (i % 4)) & 3) as i8 - 1);
        Unpacked16 { codes, d: [self.d.to_f32(); 2] }
    }
}
