//! Q5_0: 5.5 bits per weight, a scale per 32. What Q4_K falls back to in rows that are no multiple
//! of 256. Value = `d * (code - 16)`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::search::{emphasize, extreme, nearest, symmetric, whole};
use super::{Block, Block32, F16, Unpacked32, nibbles_and_fifth, pack_nibbles_and_fifth};
use gguf_rs_lite::GgmlType;

/// One block of Q5_0: 32 elements in 22 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: F16,
    /// Fifth bits, bit `i` of the little-endian word is element `i`.
    pub qh: [u8; 4],
    /// Low four bits as in Q4_0; value = d * (code - 16).
    pub qs: [u8; 16],
}

impl Block for BlockQ5_0 {
    const TY: GgmlType = GgmlType::Q5_0;
    const LEN: usize = 32;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, .. } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = f32::from(q) * d;
        }
    }
}

impl Encode for BlockQ5_0 {
    const GROUP: usize = 32;
    const CODES: usize = 32;

    /// Without importances the weight of largest magnitude becomes code -16, exactly; with them the
    /// scale is searched.
    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, mean_square: f32) -> Scales {
        match importance {
            None => Scales::unrounded(extreme(x) / -16.0, 0.0),
            Some(w) => {
                let costs = emphasize::<32>(all(x), all(w), mean_square);
                Scales::rounded(symmetric(all(x), &costs, 16.0), 0.0)
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
        code as i8 - 16
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        if coder.stored {
            whole((nearest(x * coder.by) + 16.0).clamp(0.0, 31.0))
        } else {
            whole((x * coder.by + 16.5).clamp(0.0, 31.0))
        }
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&nibbles_and_fifth(&self.qs, &self.qh));
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ5_0 {
        let (qs, qh) = pack_nibbles_and_fifth(all(codes));
        BlockQ5_0 { d: scales.d, qh, qs }
    }
}

impl Block32 for BlockQ5_0 {
    const HAS_MIN: bool = false;

    /// Codes in -16..=15.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles_and_fifth(&self.qs, &self.qh).map(|q| q as i8 - 16);
        Unpacked32 { codes, d: self.d.to_f32(), m: 0.0 }
    }
}
