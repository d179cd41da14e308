//! Q1_0: 1.125 bits per weight, a scale per 128. Value = `d` or `-d`.

use super::search::sum;
use super::{Block, Block16, F16, Quantize, Unpacked16};
use gguf_rs_lite::GgmlType;

/// One block of Q1_0: 128 elements in 18 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: F16,
    /// Of each 32 elements a little-endian word: bit `i` is set if element `i` is positive.
    pub qs: [[u8; 4]; 4],
}

impl Block for BlockQ1_0 {
    const TY: GgmlType = GgmlType::Q1_0;
    const LEN: usize = 128;

    fn dequantize(&self, out: &mut [f32]) {
        Self::dequantize_parts(self, out);
    }
}

impl Quantize for BlockQ1_0 {
    /// The mean magnitude is the scale, which loses least; importances are ignored.
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [BlockQ1_0]) {
        for (x, block) in x.as_chunks::<128>().0.iter().zip(out) {
            let d = F16::from_f32(sum(x.iter().map(|x| x.abs())) / 128.0);
            let qs = std::array::from_fn(|j| {
                let word = x[32 * j..][..32].iter().rev();
                word.fold(0u32, |bits, &x| bits << 1 | u32::from(x >= 0.0)).to_le_bytes()
            });
            *block = BlockQ1_0 { d, qs };
        }
    }
}

impl Block16 for BlockQ1_0 {
    /// Codes -1 and 1.
    #[inline]
    fn unpack(&self, j: usize) -> Unpacked16 {
        let word = u32::from_le_bytes(self.qs[j]);
        let codes = std::array::from_fn(|i| (word >> i & 1) as i8 * 2 - 1);
        Unpacked16 { codes, d: [self.d.to_f32(); 2] }
    }
}
