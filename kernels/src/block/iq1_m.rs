//! IQ1_M: 1.75 bits per weight. As IQ1_S with a scale per 16, and every eight values move by
//! themselves. Value = `d / 8 * (2 * scale + 1) * code`, codes being eighths.

use super::codebook::{self, moved};
use super::{Block, Block256, F16, Quantize, Unpacked256, lattice};
use gguf_rs_lite::GgmlType;

/// One block of IQ1_M: 256 elements in 56 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ1M {
    /// Low eight bits of the points of 8 elements each.
    pub qs: [u8; 32],
    /// Nibbles, one for each 8 elements: the high three bits of the point, and whether the values are
    /// moved down.
    pub qh: [u8; 16],
    /// Little-endian words: four 3-bit scales of 16 elements each, and on top of them four bits of
    /// the scale of the scales, a half.
    pub scales: [[u8; 2]; 4],
}

impl Block for BlockIQ1M {
    const TY: GgmlType = GgmlType::IQ1_M;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockIQ1M {
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    /// Codes in -9..=9.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let nibble = self.qh[i / 2] >> (4 * (i % 2));
            let point = usize::from(self.qs[i]) | usize::from(nibble & 7) << 8;
            *codes = moved(codebook::IQ1[point], nibble & 8 != 0);
        }
        let words = self.scales.map(u16::from_le_bytes);
        let scales = std::array::from_fn(|i| (2 * (words[i / 4] >> (3 * (i % 4)) & 7) + 1) as i16);
        Unpacked256::without_min(codes, scales, self.d().to_f32() / 8.0)
    }
}

impl BlockIQ1M {
    /// The scale of the scales.
    #[inline]
    pub(crate) fn d(&self) -> F16 {
        let words = self.scales.map(u16::from_le_bytes);
        let half = words.iter().rev().fold(0, |bits, word| bits << 4 | word >> 12);
        F16(half.to_le_bytes())
    }
}

impl Quantize for BlockIQ1M {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockIQ1M]) {
        lattice::blocks(x, importance, out, |x, importance| {
            let w = lattice::costs(x, importance, 2.0);
            let coded = lattice::encode_ternary::<16>(x, &w, false);
            let nibble = |i: usize| (coded.points[i] >> 8) as u8 | u8::from(coded.down[i]) << 3;
            let d = u16::from_le_bytes(coded.d.0);
            let word = |j: usize| {
                let scale = |i: usize| u16::from(coded.scales[4 * j + i]) << (3 * i);
                (0..4).fold(d >> (4 * j) << 12, |word, i| word | scale(i))
            };
            BlockIQ1M {
                qs: std::array::from_fn(|i| coded.points[i] as u8),
                qh: std::array::from_fn(|i| nibble(2 * i) | nibble(2 * i + 1) << 4),
                scales: std::array::from_fn(|j| word(j).to_le_bytes()),
            }
        });
    }
}
