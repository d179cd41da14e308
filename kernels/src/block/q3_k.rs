//! Q3_K: 3.4375 bits per weight. Super-blocks of 16 groups of 16, each with a 6-bit scale. Value =
//! `d * (scale - 32) * (code - 4)`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::q2_k::pack_pairs;
use super::search;
use super::side_by_side;
use super::{Block, Block256, F16, Unpacked256};
use gguf_rs_lite::GgmlType;

/// One block of Q3_K: 256 elements in 110 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ3K {
    /// Third bits.
    pub hmask: [u8; 32],
    /// Low two bits.
    pub qs: [u8; 64],
    /// 6-bit scales of 16 elements each, offset 32.
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: F16,
}

impl Block for BlockQ3K {
    const TY: GgmlType = GgmlType::Q3_K;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockQ3K {
    const GROUP: usize = 16;
    const CODES: usize = 8;

    /// Without importances errors count by the square of the weight.
    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, _: f32) -> Scales {
        let groups = x.as_chunks::<16>().0;
        let Some(importance) = importance else {
            let scales = std::array::from_fn(|g| {
                let squares = groups[g].map(|x| x * x);
                search::symmetric_by_descent(&groups[g], &squares, CODES)
            });
            return scales_of(search::symmetric_scales(&scales, SCALES));
        };
        let sigma2 = 2.0 * search::mean_square(x);
        let importance = importance.as_chunks().0;
        let costs: [[f32; 16]; 16] =
            std::array::from_fn(|g| search::emphasize(&groups[g], &importance[g], sigma2));
        let scales = side_by_side::symmetric_groups(groups, &costs, CODES);
        let weights = costs.map(|costs| search::sum(costs.into_iter()));
        let d = F16::from_f32(search::symmetric(&scales, &weights, SCALES));
        scales_of((search::symmetric_scales_of(&scales, d, SCALES), d))
    }

    fn compose(groups: &[Group]) -> Scales {
        let scales = std::array::from_fn(|g| groups[g].scale);
        scales_of(search::symmetric_scales(&scales, SCALES))
    }

    fn group(scales: &Scales, g: usize) -> Group {
        scales.group_without_min((scales.scales[g] & 63) as i8 - 32)
    }

    fn level(code: u8) -> i8 {
        code as i8 - 4
    }

    #[inline(always)]
    fn coder(scales: &Scales, g: usize) -> Coder {
        Coder::by_scale(Self::group(scales, g))
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        search::symmetric_code(coder, x, CODES)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&self.unpack().codes.map(|q| (q + 4) as u8));
        Scales::new(self.d, F16::default(), unpack_scales(&self.scales), [0; 16])
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ3K {
        let codes = all(codes);
        let hmask =
            std::array::from_fn(|l| (0..8).fold(0, |byte, j| byte | codes[32 * j + l] >> 2 << j));
        let packed = pack_scales(&scales.scales.map(|s| s & 63));
        BlockQ3K { hmask, qs: pack_pairs(codes), scales: packed, d: scales.d }
    }
}

/// Signed scales as stored.
#[inline(always)]
fn scales_of((scales, d): ([i8; 16], F16)) -> Scales {
    Scales::new(d, F16::default(), scales.map(|s| (s + 32) as u8), [0; 16])
}

impl Block256 for BlockQ3K {
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    /// Codes in -4..=3: low bits as in Q2_K; bit `4h + j` of `hmask[l]` is the third bit of
    /// element `128h + 32j + l`.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (h, (half, qs)) in codes.chunks_exact_mut(128).zip(self.qs.chunks_exact(32)).enumerate()
        {
            for (j, plane) in half.chunks_exact_mut(32).enumerate() {
                for ((code, q), mask) in plane.iter_mut().zip(qs).zip(&self.hmask) {
                    let low = (q >> (2 * j)) & 3;
                    let high = (mask >> (4 * h + j)) & 1;
                    *code = (low | high << 2) as i8 - 4;
                }
            }
        }
        let scales = unpack_scales(&self.scales).map(|s| i16::from(s) - 32);
        Unpacked256::without_min(codes, scales, self.d.to_f32())
    }
}

/// Sixteen 6-bit scales: low nibbles of 0..8 and high nibbles of 0..8 are the low four bits of
/// scales 0..8 and 8..16; bits `2k` of byte `8 + i` are the top bits of scale `4k + i`.
fn unpack_scales(packed: &[u8; 12]) -> [u8; 16] {
    std::array::from_fn(|i| {
        let low = (packed[i % 8] >> (4 * (i / 8))) & 15;
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        low | high << 4
    })
}

/// The inverse of [`unpack_scales`].
#[inline(always)]
fn pack_scales(scales: &[u8; 16]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..8 => scales[i] & 15 | scales[i + 8] << 4,
        _ => (0..4).fold(0, |byte, k| byte | scales[4 * k + i - 8] >> 4 << (2 * k)),
    })
}

/// Codes are -4..=3.
const CODES: f32 = 4.0;
/// Scales are -32..=31.
const SCALES: f32 = 32.0;
