//! IQ3_S: 3.4375 bits per weight. As IQ3_XXS with twice the points and all eight signs. Value =
//! `d * (2 * scale + 1) * code`.

use super::book::Book;
use super::codebook::{self, IQ3_S_MAGNITUDES, IQ3_S_POINTS, eight, signed};
use super::lattice::{self, Magnitudes};
use super::{Block, Block256, F16, Quantize, Unpacked256, twice};
use gguf_rs_lite::GgmlType;

/// One block of IQ3_S: 256 elements in 110 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ3S {
    /// Scale of the scales.
    pub d: F16,
    /// Low eight bits of the points of 4 elements each.
    pub qs: [[u8; 2]; 32],
    /// Ninth bits of eight points each.
    pub qh: [u8; 8],
    /// Signs of 8 elements each.
    pub signs: [u8; 32],
    /// 4-bit scales of 32 elements each, low nibbles first.
    pub scales: [u8; 4],
}

impl Block for BlockIQ3S {
    const TY: GgmlType = GgmlType::IQ3_S;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockIQ3S {
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    /// Codes in -15..=15.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let ninth = usize::from(self.qh[i / 4] >> (2 * (i % 4)));
            let [low, high] = self.qs[i].map(usize::from);
            let low = codebook::IQ3_S[low | (ninth & 1) << 8];
            let high = codebook::IQ3_S[high | (ninth >> 1 & 1) << 8];
            *codes = signed(eight([low, high]), self.signs[i]);
        }
        let scale = |j: usize| 2 * (self.scales[j / 2] >> (4 * (j % 2)) & 15) + 1;
        let scales = twice(std::array::from_fn(scale));
        Unpacked256::without_min(codes, scales, self.d.to_f32())
    }
}

static BOOK: Book<512> = Book::new(&IQ3_S_POINTS, 3);

const METHOD: Magnitudes<Book<512>, 4, 8> = Magnitudes {
    book: &BOOK,
    levels: IQ3_S_MAGNITUDES,
    values: |point| codebook::IQ3_S[point].to_le_bytes(),
    even_signs: false,
    unit: 1.0,
};

impl Quantize for BlockIQ3S {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockIQ3S]) {
        lattice::blocks(x, importance, out, |x, importance| {
            let coded = METHOD.encode::<32>(x, &lattice::costs(x, importance, 2.0));
            let ninth = |i: usize| (coded.points[i] >> 8) as u8;
            BlockIQ3S {
                d: coded.d,
                qs: std::array::from_fn(|i| {
                    [coded.points[2 * i] as u8, coded.points[2 * i + 1] as u8]
                }),
                qh: std::array::from_fn(|j| (0..8).fold(0, |bits, l| bits | ninth(8 * j + l) << l)),
                signs: coded.signs,
                scales: lattice::pack_scales(&coded.scales),
            }
        });
    }
}
