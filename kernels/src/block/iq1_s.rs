//! IQ1_S: 1.5625 bits per weight. Super-blocks of 8 groups of 32, each with a 3-bit scale; eight
//! values of -1, 0 or 1 are a point of a codebook, and those of a group are moved by an eighth up or
//! down. Value = `d / 8 * (2 * scale + 1) * code`, codes being eighths.

use super::codebook::{self, moved};
use super::{Block, Block256, F16, Quantize, Unpacked256, lattice, twice};
use gguf_rs_lite::GgmlType;

/// One block of IQ1_S: 256 elements in 50 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ1S {
    /// Scale of the scales.
    pub d: F16,
    /// Low eight bits of the points of 8 elements each.
    pub qs: [[u8; 4]; 8],
    /// Little-endian words, one for each 32 elements: four times the high three bits of a point, the
    /// scale, and whether the values are moved down.
    pub qh: [[u8; 2]; 8],
}

impl Block for BlockIQ1S {
    const TY: GgmlType = GgmlType::IQ1_S;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockIQ1S {
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    /// Codes in -9..=9.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let words = self.qh.map(u16::from_le_bytes);
        let mut codes = [0; 256];
        for (j, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (l, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
                let high = usize::from(words[j] >> (3 * l) & 7);
                let point = codebook::IQ1[usize::from(self.qs[j][l]) | high << 8];
                *codes = moved(point, words[j] >> 15 == 1);
            }
        }
        let scales = twice(words.map(|word| 2 * (word >> 12 & 7) as u8 + 1));
        Unpacked256::without_min(codes, scales, self.d.to_f32() / 8.0)
    }
}

impl Quantize for BlockIQ1S {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockIQ1S]) {
        lattice::blocks(x, importance, out, |x, importance| {
            let w = lattice::costs(x, importance, 2.0);
            let coded = lattice::encode_ternary::<32>(x, &w, true);
            let point = |j: usize, l: usize| coded.points[4 * j + l];
            let word = |j: usize| {
                let scale = u16::from(coded.scales[j]) << 12 | u16::from(coded.down[4 * j]) << 15;
                (0..4).fold(scale, |word, l| word | point(j, l) >> 8 << (3 * l))
            };
            BlockIQ1S {
                d: coded.d,
                qs: std::array::from_fn(|j| std::array::from_fn(|l| point(j, l) as u8)),
                qh: std::array::from_fn(|j| word(j).to_le_bytes()),
            }
        });
    }
}
