//! Q4_0: 4.5 bits per weight, a scale per 32. What Q2_K and Q3_K fall back to in rows that are no
//! multiple of 256. Value = `d * (code - 8)`, so the largest magnitude is exact and its opposite
//! clips.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::search::{emphasize, extreme, nearest, symmetric, whole};
use super::{Block, Block32, F16, Unpacked32, nibbles, pack_nibbles};
use gguf_rs_lite::GgmlType;

/// One block of Q4_0: 32 elements in 18 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: F16,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32; value = d * (code - 8).
    pub qs: [u8; 16],
}

impl Block for BlockQ4_0 {
    const TY: GgmlType = GgmlType::Q4_0;
    const LEN: usize = 32;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, .. } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d;
        }
    }
}

impl Encode for BlockQ4_0 {
    const GROUP: usize = 32;
    const CODES: usize = 16;

    /// Without importances the weight of largest magnitude becomes code -8, exactly; with them the
    /// scale is searched.
    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, mean_square: f32) -> Scales {
        match importance {
            None => Scales::unrounded(extreme(x) / -8.0, 0.0),
            Some(w) => {
                let costs = emphasize::<32>(all(x), all(w), mean_square);
                Scales::rounded(symmetric(all(x), &costs, 8.0), 0.0)
            }
        }
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, 0.0)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group()
    }

    fn level(code: u8) -> i8 {
        code as i8 - 8
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        if coder.stored {
            whole((nearest(x * coder.by) + 8.0).clamp(0.0, 15.0))
        } else {
            whole((x * coder.by + 8.5).clamp(0.0, 15.0))
        }
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&nibbles(&self.qs));
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ4_0 {
        BlockQ4_0 { d: scales.d, qs: pack_nibbles(all(codes)) }
    }
}

impl Block32 for BlockQ4_0 {
    const HAS_MIN: bool = false;

    /// Codes in -8..=7.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles(&self.qs).map(|q| q as i8 - 8);
        Unpacked32 { codes, d: self.d.to_f32(), m: 0.0 }
    }
}
