//! IQ4_XS: 4.25 bits per weight. Super-blocks of 8 groups of 32, each with a 6-bit scale, and the
//! codes of IQ4_NL. Value = `d * (scale - 32) * VALUES[code]`.

use super::encode::{Coder, Encode, Group, Scales};
use super::iq4_nl::{self, VALUES};
use super::search::{extreme, mean_square, nearest};
use super::{Block, Block256, F16, Unpacked256, nibbles, pack_nibbles, twice};
use gguf_rs_lite::GgmlType;

/// One block of IQ4_XS: 256 elements in 136 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ4XS {
    /// Scale of the scales.
    pub d: F16,
    /// High two bits of the scales: bits `2j` of the little-endian word.
    pub scales_h: [u8; 2],
    /// Low four bits of the scales, two to a byte.
    pub scales_l: [u8; 4],
    /// Codes: of each 32 elements 16 bytes, as in IQ4_NL.
    pub qs: [[u8; 16]; 8],
}

impl Block for BlockIQ4XS {
    const TY: GgmlType = GgmlType::IQ4_XS;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockIQ4XS {
    const GROUP: usize = 32;
    const CODES: usize = 16;

    /// Without importances errors count by the square of the weight.
    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, _: f32) -> Scales {
        let sigma2 = 2.0 * mean_square(x);
        let groups = x.as_chunks::<32>().0;
        scales_of(&std::array::from_fn(|g| {
            let importance = importance.map(|w| &w.as_chunks().0[g]);
            let costs = iq4_nl::costs(&groups[g], importance, sigma2);
            iq4_nl::searched_scale(&groups[g], &costs)
        }))
    }

    fn compose(groups: &[Group]) -> Scales {
        scales_of(&std::array::from_fn(|g| groups[g].scale)).as_stored()
    }

    fn group(scales: &Scales, g: usize) -> Group {
        scales.group_without_min((scales.scales[g] & 63) as i8 - 32)
    }

    fn level(code: u8) -> i8 {
        VALUES[usize::from(code)]
    }

    #[inline(always)]
    fn coder(scales: &Scales, g: usize) -> Coder {
        let scale = f32::from((scales.scales[g] & 63) as i8 - 32);
        Coder::by_inverse(scales.exact_d() * scale, 0.0)
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        iq4_nl::nearest_code(coder.by * x) as u8
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        for (codes, qs) in codes.as_chunks_mut::<32>().0.iter_mut().zip(&self.qs) {
            *codes = nibbles(qs);
        }
        let mut scales = Scales::of_block(self.d, F16::default());
        scales.scales[..8].copy_from_slice(&self.scales());
        scales
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockIQ4XS {
        let groups = codes.as_chunks().0;
        let (scales_l, scales_h) = pack_scales(&std::array::from_fn(|g| scales.scales[g] & 63));
        let qs = std::array::from_fn(|g| pack_nibbles(&groups[g]));
        BlockIQ4XS { d: scales.d, scales_h, scales_l, qs }
    }
}

/// The scales of groups as 6-bit codes of a common one.
#[inline(always)]
fn scales_of(groups: &[f32; 8]) -> Scales {
    let d = -extreme(groups) / SCALES;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut scales = Scales::unrounded(d, 0.0);
    for (code, scale) in scales.scales.iter_mut().zip(groups) {
        *code = (nearest(inverse * scale).clamp(-SCALES, SCALES - 1.0) + SCALES) as u8;
    }
    scales
}

impl Block256 for BlockIQ4XS {
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    /// Codes in -127..=113.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (codes, qs) in codes.as_chunks_mut::<32>().0.iter_mut().zip(&self.qs) {
            *codes = nibbles(qs).map(|q| VALUES[usize::from(q)]);
        }
        let scales = twice(self.scales()).map(|s| s - 32);
        Unpacked256::without_min(codes, scales, self.d.to_f32())
    }
}

impl BlockIQ4XS {
    /// The eight scales, offset 32.
    pub(crate) fn scales(&self) -> [u8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|j| {
            let low = self.scales_l[j / 2] >> (4 * (j % 2)) & 15;
            low | ((high >> (2 * j)) as u8 & 3) << 4
        })
    }
}

/// The inverse of [`BlockIQ4XS::scales`].
#[inline(always)]
fn pack_scales(scales: &[u8; 8]) -> ([u8; 4], [u8; 2]) {
    let low = std::array::from_fn(|i| scales[2 * i] & 15 | scales[2 * i + 1] << 4);
    let high = scales.iter().rev().fold(0, |bits, s| bits << 2 | u16::from(s >> 4));
    (low, high.to_le_bytes())
}

/// Scales are -32..=31.
const SCALES: f32 = 32.0;
