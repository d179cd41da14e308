//! Q2_0: 2.25 bits per weight, a scale per 64. Value = `d * (code - 1)`.

use super::encode::{Coder, Encode, Group, Scales};
use super::search::{away_from_zero, extreme, whole};
use super::{Block, Block16, F16, Unpacked16};
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

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        Self::dequantize_parts(self, out);
    }
}

impl Encode for BlockQ2_0 {
    const GROUP: usize = 64;
    const CODES: usize = 4;

    /// The largest magnitude is the scale; importances are ignored.
    #[inline(always)]
    fn fit(x: &[f32], _: Option<&[f32]>, _: f32) -> Scales {
        Scales::unrounded(extreme(x).abs(), 0.0)
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, 0.0)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group()
    }

    fn level(code: u8) -> i8 {
        code as i8 - 1
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        whole((away_from_zero(x * coder.by) + 1.0).clamp(0.0, 3.0))
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        for (i, code) in codes.iter_mut().enumerate() {
            *code = self.qs[i / 32][i % 32 / 4] >> (2 * (i % 4)) & 3;
        }
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ2_0 {
        let byte = |i: usize| (0..4).fold(0, |byte, k| byte | codes[4 * i + k] << (2 * k));
        let qs = std::array::from_fn(|j| std::array::from_fn(|i| byte(8 * j + i)));
        BlockQ2_0 { d: scales.d, qs }
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
