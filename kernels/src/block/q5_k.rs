//! Q5_K: 5.5 bits per weight: Q4_K with a fifth bit. Super-blocks of 8 groups of 32, each with a
//! 6-bit scale and minimum. Value = `d * scale * code - dmin * min`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::q4_k::{pack_eight, pack_low, scales_of_eight};
use super::search::{AffineMethod, Grid};
use super::{Block, Block256, F16, Unpacked256, scales_and_mins, twice};
use gguf_rs_lite::GgmlType;

/// One block of Q5_K: 256 elements in 176 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minimums.
    pub dmin: F16,
    /// 6-bit scales and minimums of 32 elements each.
    pub scales: [u8; 12],
    /// Fifth bits.
    pub qh: [u8; 32],
    /// Low four bits.
    pub qs: [u8; 128],
}

impl Block for BlockQ5K {
    const TY: GgmlType = GgmlType::Q5_K;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockQ5K {
    const GROUP: usize = 32;
    const CODES: usize = 32;

    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, _: f32) -> Scales {
        METHOD.fit::<32, 8>(all(x), importance.map(all))
    }

    fn compose(groups: &[Group]) -> Scales {
        METHOD.compose::<8>(all(groups))
    }

    fn group(scales: &Scales, g: usize) -> Group {
        scales.group_with_min(g)
    }

    fn level(code: u8) -> i8 {
        code as i8
    }

    #[inline(always)]
    fn coder(scales: &Scales, g: usize) -> Coder {
        Coder::by_scale(scales.group_with_min(g))
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        METHOD.code(coder, x)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&self.unpack().codes.map(|q| q as u8));
        scales_of_eight(self.d, self.dmin, &self.scales)
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ5K {
        let (qs, qh) = (pack_low(all(codes)), pack_fifth(all(codes)));
        BlockQ5K { d: scales.d, dmin: scales.m, scales: pack_eight(scales), qh, qs }
    }
}

impl Block256 for BlockQ5K {
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    /// Codes in 0..=31: low nibbles as in Q4_K; bit `j` of `qh[l]` is the fifth bit of element
    /// `32j + l`.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (pair, (codes, qs)) in
            codes.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)).enumerate()
        {
            let (low, high) = codes.split_at_mut(32);
            for (((low, high), q), fifth) in low.iter_mut().zip(high).zip(qs).zip(&self.qh) {
                let fifth = fifth >> (2 * pair);
                *low = (q & 15 | (fifth & 1) << 4) as i8;
                *high = (q >> 4 | (fifth >> 1 & 1) << 4) as i8;
            }
        }
        let packed = scales_and_mins(&self.scales);
        Unpacked256 {
            codes,
            scales: twice(packed.map(|p| p.0)),
            mins: twice(packed.map(|p| p.1)),
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
        }
    }
}

const METHOD: AffineMethod = AffineMethod {
    code_max: 31.0,
    scale_max: 63.0,
    grid: Grid { first: -0.5, step: 0.1, steps: 15, absolute: false },
    add_rms: true,
    sigma2_factor: 2.0,
};

/// Bit `j` of byte `l` is the fifth bit of element `32j + l`.
fn pack_fifth(codes: &[u8; 256]) -> [u8; 32] {
    std::array::from_fn(|l| (0..8).fold(0, |byte, j| byte | codes[32 * j + l] >> 4 << j))
}
