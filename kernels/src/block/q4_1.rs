//! Q4_1: 5 bits per weight, a scale and a minimum per 32. Value = `d * code + m`.

use super::encode::{Coder, Encode, Group, Scales, all, fit_affine};
use super::{Block, Block32, F16, Unpacked32, nibbles, pack_nibbles};
use gguf_rs_lite::GgmlType;

/// One block of Q4_1: 32 elements in 20 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: F16,
    /// Minimum.
    pub m: F16,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32; value = d * code + m.
    pub qs: [u8; 16],
}

impl Block for BlockQ4_1 {
    const TY: GgmlType = GgmlType::Q4_1;
    const LEN: usize = 32;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, m } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d + m;
        }
    }
}

impl Encode for BlockQ4_1 {
    const GROUP: usize = 32;
    const CODES: usize = 16;

    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, mean_square: f32) -> Scales {
        fit_affine(x, importance, mean_square, 15.0)
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, -groups[0].min)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group_with_min()
    }

    fn level(code: u8) -> i8 {
        code as i8
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        coder.affine_code(x, 15.0)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&nibbles(&self.qs));
        Scales::of_block(self.d, self.m)
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ4_1 {
        BlockQ4_1 { d: scales.d, m: scales.m, qs: pack_nibbles(all(codes)) }
    }
}

impl Block32 for BlockQ4_1 {
    const HAS_MIN: bool = true;

    /// Codes in 0..=15.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles(&self.qs).map(|q| q as i8);
        Unpacked32 { codes, d: self.d.to_f32(), m: self.m.to_f32() }
    }
}
