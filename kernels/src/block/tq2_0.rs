//! TQ2_0: 2.0625 bits per weight, for models trained to be ternary: -1, 0 and 1 (and, in the fourth
//! code, 2). Value = `d * (code - 1)`.

use super::encode::{Coder, Encode, Group, Scales};
use super::search::{away_from_zero, extreme, whole};
use super::{Block, Block256, F16, Unpacked256};
use gguf_rs_lite::GgmlType;

/// One block of TQ2_0: 256 elements in 66 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockTQ2_0 {
    /// Bytes, 32 for each 128 elements: bits `2j` of byte `l` are element `32j + l`.
    pub qs: [[u8; 32]; 2],
    /// Scale.
    pub d: F16,
}

impl Block for BlockTQ2_0 {
    const TY: GgmlType = GgmlType::TQ2_0;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockTQ2_0 {
    const GROUP: usize = 256;
    const CODES: usize = 4;

    /// The largest magnitude is the scale; importances are ignored, in a ternary row they gain
    /// nothing.
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
        ternary(coder, x)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&self.unpack().codes.map(|q| (q + 1) as u8));
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockTQ2_0 {
        let qs = std::array::from_fn(|h| {
            std::array::from_fn(|l| {
                (0..4).fold(0, |byte, j| byte | codes[128 * h + 32 * j + l] << (2 * j))
            })
        });
        BlockTQ2_0 { qs, d: scales.d }
    }
}

impl Block256 for BlockTQ2_0 {
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    /// Codes in -1..=2.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (codes, qs) in codes.as_chunks_mut::<128>().0.iter_mut().zip(&self.qs) {
            for (j, plane) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                *plane = qs.map(|q| (q >> (2 * j) & 3) as i8 - 1);
            }
        }
        Unpacked256::without_min(codes, [1; 16], self.d.to_f32())
    }
}

/// Codes 0, 1, 2 of -1, 0, 1; never the fourth, which is not ternary.
#[inline(always)]
pub(super) fn ternary(coder: &Coder, x: f32) -> u8 {
    whole((away_from_zero(x * coder.by) + 1.0).clamp(0.0, 2.0))
}
