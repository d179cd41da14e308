//! NVFP4: 4.5 bits per weight, NVIDIA's 4-bit floats (E2M1) under an 8-bit one (UE4M3) per 16. Value =
//! `d * VALUES[code]` with MXFP4's values, which are twice what the floats are; so `d` is half of
//! what the scale says.

use super::encode::{Coder, Encode, Group, Scales};
use super::mxfp4::{VALUES, nearest_code};
use super::search::extreme;
use super::{Block, Block16, Unpacked16};
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

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        Self::dequantize_parts(self, out);
    }
}

impl Encode for BlockNVFP4 {
    const GROUP: usize = 16;
    const CODES: usize = 16;

    /// The largest magnitude becomes 6, the largest float; importances are ignored.
    #[inline(always)]
    fn fit(x: &[f32], _: Option<&[f32]>, _: f32) -> Scales {
        scales_of(|g| nearest_scale(extreme(&x[16 * g..][..16]).abs() / 6.0))
    }

    fn compose(groups: &[Group]) -> Scales {
        scales_of(|g| nearest_scale(2.0 * groups[g].scale))
    }

    fn group(scales: &Scales, g: usize) -> Group {
        Group { scale: scale(scales.scales[g]), min: 0.0 }
    }

    fn level(code: u8) -> i8 {
        VALUES[usize::from(code)]
    }

    #[inline(always)]
    fn coder(scales: &Scales, g: usize) -> Coder {
        Coder::by_scale(Self::group(scales, g))
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        if coder.by == 0.0 { 0 } else { nearest_code(x / coder.by) }
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        for (codes, qs) in codes.as_chunks_mut::<16>().0.iter_mut().zip(&self.qs) {
            *codes = std::array::from_fn(|i| qs[i % 8] >> (i / 8 * 4) & 15);
        }
        scales_of(|g| self.d[g])
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockNVFP4 {
        let groups = codes.as_chunks::<16>().0;
        let pack = |codes: &[u8; 16]| std::array::from_fn(|i| codes[i] | codes[i + 8] << 4);
        BlockNVFP4 {
            d: std::array::from_fn(|g| scales.scales[g]),
            qs: std::array::from_fn(|g| pack(&groups[g])),
        }
    }
}

#[inline(always)]
fn scales_of(code: impl Fn(usize) -> u8) -> Scales {
    let mut scales = Scales::default();
    for (g, scale) in scales.scales[..4].iter_mut().enumerate() {
        *scale = code(g);
    }
    scales
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
#[inline(always)]
fn nearest_scale(x: f32) -> u8 {
    /// 448, the largest.
    const MAX: u8 = 0x7e;
    // Codes are in the order of their values.
    let above = (0..MAX).filter(|&code| scale(code) + scale(code + 1) <= x);
    above.count() as u8
}
