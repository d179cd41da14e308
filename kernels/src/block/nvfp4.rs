//! NVFP4: 4.5 bits per weight, NVIDIA's 4-bit floats (E2M1) under an 8-bit one (UE4M3) per 16. Value =
//! `d * VALUES[code]` with MXFP4's values, which are twice what the floats are; so `d` is half of
//! what the scale says.

use super::mxfp4::{VALUES, nearest_code};
use super::search::extreme;
use super::{Block, Block16, Quantize, Unpacked16};
use gguf_rs_lite::GgmlType;

/// One block of NVFP4: 64 elements in 36 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockNVFP4 {
    /// Scales of 16 elements each: four bits of exponent, three of mantissa. The top bit is unused.
    pub d: [u8; 4],
    /// Codes of 16 elements each: low nibbles, then high ones.
    pub qs: [[u8; 8]; 4],
}

impl Block for BlockNVFP4 {
    const TY: GgmlType = GgmlType::NVFP4;
    const LEN: usize = 64;

    fn dequantize(&self, out: &mut [f32]) {
        Self::dequantize_parts(self, out);
    }
}

impl Quantize for BlockNVFP4 {
    /// The largest magnitude becomes 6, the largest float; importances are ignored.
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [BlockNVFP4]) {
        for (x, block) in x.as_chunks::<64>().0.iter().zip(out) {
            for (j, x) in x.as_chunks::<16>().0.iter().enumerate() {
                block.d[j] = nearest_scale(extreme(x).abs() / 6.0);
                let d = scale(block.d[j]);
                let codes = x.map(|x| if d == 0.0 { 0 } else { nearest_code(x / d) });
                block.qs[j] = std::array::from_fn(|i| codes[i] | codes[i + 8] << 4);
            }
        }
    }
}

impl Block16 for BlockNVFP4 {
    /// Codes in -12..=12.
    #[inline]
    fn unpack(&self, j: usize) -> Unpacked16 {
        let codes = std::array::from_fn(|i| {
            let byte = self.qs[2 * j + i / 16][i % 8];
            VALUES[usize::from(byte >> (i / 8 % 2 * 4) & 15)]
        });
        Unpacked16 { codes, d: [scale(self.d[2 * j]), scale(self.d[2 * j + 1])] }
    }
}

/// Half the value of a scale. The code of NaN is 0, but only without the unused bit, as in ggml.
pub(crate) fn scale(code: u8) -> f32 {
    SCALES[usize::from(code)]
}

static SCALES: [f32; 256] = {
    let mut scales = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code >> 3 & 15, (code & 7) as f32);
        scales[code] = match (code, exponent) {
            (0x7f, _) => 0.0,
            (_, 0) => mantissa / 1024.0,
            _ => (8.0 + mantissa) * (1 << (exponent - 1)) as f32 / 1024.0,
        };
        code += 1;
    }
    scales
};

/// The code of the scale nearest to `x >= 0`, the upper one of two; at most 448.
fn nearest_scale(x: f32) -> u8 {
    /// 448, the largest.
    const MAX: u8 = 0x7e;
    // Codes are in the order of their values.
    let above = (0..MAX).filter(|&code| scale(code) + scale(code + 1) <= x);
    above.count() as u8
}
