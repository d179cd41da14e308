//! Q5_1: 6 bits per weight, a scale and a minimum per 32. What Q5_K falls back to in rows that are
//! no multiple of 256. Value = `d * code + m`.

use super::encode::{Coder, Encode, Group, Scales, all, fit_affine};
use super::{Block, Block32, F16, Unpacked32, nibbles_and_fifth, pack_nibbles_and_fifth};
use gguf_rs_lite::GgmlType;

/// One block of Q5_1: 32 elements in 24 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: F16,
    /// Minimum.
    pub m: F16,
    /// Fifth bits, bit `i` of the little-endian word is element `i`.
    pub qh: [u8; 4],
    /// Low four bits as in Q4_1; value = d * code + m.
    pub qs: [u8; 16],
}

impl Block for BlockQ5_1 {
    const TY: GgmlType = GgmlType::Q5_1;
    const LEN: usize = 32;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, m } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d + m;
        }
    }
}

impl Encode for BlockQ5_1 {
    const GROUP: usize = 32;
    const CODES: usize = 32;

    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, mean_square: f32) -> Scales {
        fit_affine(x, importance, mean_square, 31.0)
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
        coder.affine_code(x, 31.0)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&nibbles_and_fifth(&self.qs, &self.qh));
        Scales::of_block(self.d, self.m)
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ5_1 {
        let (qs, qh) = pack_nibbles_and_fifth(all(codes));
        BlockQ5_1 { d: scales.d, m: scales.m, qh, qs }
    }
}

impl Block32 for BlockQ5_1 {
    const HAS_MIN: bool = true;

    /// Codes in 0..=31.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles_and_fifth(&self.qs, &self.qh).map(|q| q as i8);
        Unpacked32 { codes, d: self.d.to_f32(), m: self.m.to_f32() }
    }
}
