//! Q4_K: 4.5 bits per weight, the usual choice. Super-blocks of 8 groups of 32, each with a 6-bit
//! scale and minimum. Value = `d * scale * code - dmin * min`.

use super::encode::{Coder, Encode, GROUPS_MAX, Group, Scales, all};
use super::search::{AffineMethod, Grid};
use super::{Block, Block256, F16, Unpacked256, pack_scales_and_mins, scales_and_mins, twice};
use gguf_rs_lite::GgmlType;

/// One block of Q4_K: 256 elements in 144 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minimums.
    pub dmin: F16,
    /// 6-bit scales and minimums of 32 elements each.
    pub scales: [u8; 12],
    /// 4-bit codes.
    pub qs: [u8; 128],
}

impl Block for BlockQ4K {
    const TY: GgmlType = GgmlType::Q4_K;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockQ4K {
    const GROUP: usize = 32;
    const CODES: usize = 16;

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
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ4K {
        let (d, dmin, qs) = (scales.d, scales.m, pack_low(all(codes)));
        BlockQ4K { d, dmin, scales: pack_eight(scales), qs }
    }
}

/// Eight scales and minimums as Q4_K and Q5_K pack them.
pub(super) fn scales_of_eight(d: F16, dmin: F16, packed: &[u8; 12]) -> Scales {
    let (mut scales, mut mins) = ([0; GROUPS_MAX], [0; GROUPS_MAX]);
    for (g, (scale, min)) in scales_and_mins(packed).into_iter().enumerate() {
        (scales[g], mins[g]) = (scale, min);
    }
    Scales::new(d, dmin, scales, mins)
}

/// The packed half of [`scales_of_eight`].
#[inline(always)]
pub(super) fn pack_eight(scales: &Scales) -> [u8; 12] {
    let eight = |six_bits: &[u8; GROUPS_MAX]| std::array::from_fn(|g| six_bits[g] & 63);
    pack_scales_and_mins(&eight(&scales.scales), &eight(&scales.mins))
}

impl Block256 for BlockQ4K {
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    /// Codes in 0..=15: of each 32 bytes the low nibbles are 32 elements, the high ones the next.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (codes, qs) in codes.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)) {
            let (low, high) = codes.split_at_mut(32);
            for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
                *low = (q & 15) as i8;
                *high = (q >> 4) as i8;
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
    code_max: 15.0,
    scale_max: 63.0,
    grid: Grid { first: -1.0, step: 0.1, steps: 20, absolute: false },
    add_rms: true,
    sigma2_factor: 2.0,
};

/// The low four bits of 256 codes: byte `32p + l` holds elements `64p + l` and `64p + 32 + l`.
#[inline(always)]
pub(crate) fn pack_low(codes: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let low = 64 * (i / 32) + i % 32;
        codes[low] & 15 | codes[low + 32] << 4
    })
}
