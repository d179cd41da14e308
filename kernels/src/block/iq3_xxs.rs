//! IQ3_XXS: 3.0625 bits per weight. As IQ2_XXS with points of four magnitudes. Value =
//! `d / 4 * (2 * scale + 1) * code`.

use super::book::Book;
use super::codebook::{self, IQ3_XXS_MAGNITUDES, IQ3_XXS_POINTS, eight, even_signs, signed};
use super::lattice::{self, Magnitudes};
use super::{Block, Block256, F16, Quantize, Unpacked256, twice};
use gguf_rs_lite::GgmlType;

/// One block of IQ3_XXS: 256 elements in 98 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ3XXS {
    /// Scale of the scales.
    pub d: F16,
    /// Points of 4 elements each.
    pub qs: [[u8; 2]; 32],
    /// Little-endian words, one for each 32 elements, of four times 7 signs and the scale.
    pub signs_and_scales: [[u8; 4]; 8],
}

impl Block for BlockIQ3XXS {
    const TY: GgmlType = GgmlType::IQ3_XXS;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockIQ3XXS {
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    /// Codes in -62..=62.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let words = self.signs_and_scales.map(u32::from_le_bytes);
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let point = eight(self.qs[i].map(|point| codebook::IQ3_XXS[usize::from(point)]));
            *codes = signed(point, even_signs(words[i / 4] >> (7 * (i % 4))));
        }
        let scales = twice(words.map(|word| 2 * (word >> 28) as u8 + 1));
        Unpacked256::without_min(codes, scales, self.d.to_f32() / 4.0)
    }
}

static BOOK: Book<256> = Book::new(&IQ3_XXS_POINTS, 3);

const METHOD: Magnitudes<Book<256>, 4, 8> = Magnitudes {
    book: &BOOK,
    levels: IQ3_XXS_MAGNITUDES,
    values: |point| codebook::IQ3_XXS[point].to_le_bytes(),
    even_signs: true,
    unit: 0.25,
};

impl Quantize for BlockIQ3XXS {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockIQ3XXS]) {
        lattice::blocks(x, importance, out, |x, importance| {
            let coded = METHOD.encode::<32>(x, &lattice::costs(x, importance, 2.0));
            BlockIQ3XXS {
                d: coded.d,
                qs: std::array::from_fn(|i| {
                    [coded.points[2 * i] as u8, coded.points[2 * i + 1] as u8]
                }),
                signs_and_scales: std::array::from_fn(|j| {
                    lattice::signs_and_scale(&coded.signs, j, coded.scales[j]).to_le_bytes()
                }),
            }
        });
    }
}
