//! Q2_K: 2.625 bits per weight. Super-blocks of 16 groups of 16, each with a 4-bit scale and
//! minimum. Value = `d * scale * code - dmin * min`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::search::{AffineMethod, Grid};
use super::{Block, Block256, F16, Unpacked256};
use gguf_rs_lite::GgmlType;

/// One block of Q2_K: 256 elements in 84 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ2K {
    /// Per 16 elements: scale in the low nibble, minimum in the high one.
    pub scales: [u8; 16],
    /// 2-bit codes.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minimums.
    pub dmin: F16,
}

impl Block for BlockQ2K {
    const TY: GgmlType = GgmlType::Q2_K;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockQ2K {
    const GROUP: usize = 16;
    const CODES: usize = 4;

    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, _: f32) -> Scales {
        METHOD.fit::<16, 16>(all(x), importance.map(all))
    }

    fn compose(groups: &[Group]) -> Scales {
        METHOD.compose::<16>(all(groups))
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
        let (scales, mins) = (self.scales.map(|s| s & 15), self.scales.map(|s| s >> 4));
        Scales::new(self.d, self.dmin, scales, mins)
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ2K {
        BlockQ2K {
            scales: std::array::from_fn(|i| scales.scales[i] & 15 | scales.mins[i] << 4),
            qs: pack_pairs(all(codes)),
            d: scales.d,
            dmin: scales.m,
        }
    }
}

impl Block256 for BlockQ2K {
    const GROUP: usize = 16;
    const HAS_MIN: bool = true;

    /// Codes in 0..=3: bits `2j` of byte `32h + l` are element `128h + 32j + l`.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (half, qs) in codes.chunks_exact_mut(128).zip(self.qs.chunks_exact(32)) {
            for (j, plane) in half.chunks_exact_mut(32).enumerate() {
                for (code, q) in plane.iter_mut().zip(qs) {
                    *code = (q >> (2 * j) & 3) as i8;
                }
            }
        }
        Unpacked256 {
            codes,
            scales: self.scales.map(|s| i16::from(s & 15)),
            mins: self.scales.map(|s| i16::from(s >> 4)),
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
        }
    }
}

const METHOD: AffineMethod = AffineMethod {
    code_max: 3.0,
    scale_max: 15.0,
    grid: Grid { first: -0.5, step: 0.1, steps: 15, absolute: true },
    add_rms: false,
    sigma2_factor: 1.0,
};

/// The low two bits of 256 codes: bits `2j` of byte `32h + l` are element `128h + 32j + l`.
#[inline(always)]
pub(crate) fn pack_pairs(codes: &[u8; 256]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let (h, l) = (i / 32, i % 32);
        (0..4).fold(0, |byte, j| byte | (codes[128 * h + 32 * j + l] & 3) << (2 * j))
    })
}
