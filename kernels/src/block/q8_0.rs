//! Q8_0: 8.5 bits per weight, a scale per 32; near lossless. What Q6_K falls back to in rows that
//! are no multiple of 256. Value = `d * code`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::search::{away_from_zero, extreme, whole};
use super::{Block, Block32, F16, Unpacked32};
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

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in out.iter_mut().zip(self.qs) {
            *y = f32::from(q) * d;
        }
    }
}

impl Encode for BlockQ8_0 {
    const GROUP: usize = 32;
    const CODES: usize = 256;

    /// The weight of largest magnitude becomes 127 or -127; importances are ignored, at this
    /// precision they gain nothing.
    #[inline(always)]
    fn fit(x: &[f32], _: Option<&[f32]>, _: f32) -> Scales {
        Scales::unrounded(extreme(x).abs() / 127.0, 0.0)
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, 0.0)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group()
    }

    /// Codes are the levels in two's complement.
    fn level(code: u8) -> i8 {
        code as i8
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        whole(away_from_zero(x * coder.by).clamp(-128.0, 127.0))
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&self.qs.map(|q| q as u8));
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ8_0 {
        BlockQ8_0 { d: scales.d, qs: all::<_, 32>(codes).map(|q| q as i8) }
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
