//! Q8_0: 8.5 bits per weight, a scale per 32; near lossless. What Q6_K falls back to in rows that
//! are no multiple of 256. Value = `d * code`.

use super::{Block, Block32, F16, Quantize, Unpacked32, search::extreme};
use gguf_rs_lite::GgmlType;

/// One block of Q8_0: 32 elements in 34 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: F16,
    /// Value = d * code.
    pub qs: [i8; 32],
}

impl Block for BlockQ8_0 {
    const TY: GgmlType = GgmlType::Q8_0;
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in out.iter_mut().zip(self.qs) {
            *y = f32::from(q) * d;
        }
    }
}

impl Quantize for BlockQ8_0 {
    /// The weight of largest magnitude becomes 127 or -127; importances are ignored, at this
    /// precision they gain nothing.
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [BlockQ8_0]) {
        for (x, block) in x.as_chunks::<32>().0.iter().zip(out) {
            let d = extreme(x).abs() / 127.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            *block = BlockQ8_0 { d: F16::from_f32(d), qs: x.map(|x| (x * inverse).round() as i8) };
        }
    }
}

impl Block32 for BlockQ8_0 {
    const HAS_MIN: bool = false;

    /// Codes in -128..=127; quantizers write no -128, but files may hold it.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        Unpacked32 { codes: self.qs, d: self.d.to_f32(), m: 0.0 }
    }
}
