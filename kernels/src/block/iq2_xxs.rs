//! IQ2_XXS: 2.0625 bits per weight. Super-blocks of 8 groups of 32, each with a 4-bit scale; eight
//! magnitudes at a time are a point of a codebook, their signs apart. Value =
//! `d / 8 * (2 * scale + 1) * code`.

use super::book::Book;
use super::codebook::{self, IQ2_MAGNITUDES, IQ2_XXS_POINTS, even_signs, signed};
use super::lattice::{self, Magnitudes};
use super::{Block, Block256, F16, Quantize, Unpacked256, twice};
use gguf_rs_lite::GgmlType;

/// One block of IQ2_XXS: 256 elements in 66 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ2XXS {
    /// Scale of the scales.
    pub d: F16,
    /// Codes of each 32 elements: four points, then a little-endian word of four times 7 signs and the
    /// scale.
    pub qs: [[u8; 8]; 8],
}

impl Block for BlockIQ2XXS {
    const TY: GgmlType = GgmlType::IQ2_XXS;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockIQ2XXS {
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    /// Codes in -43..=43.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let (mut codes, mut scales) = ([0; 256], [0; 8]);
        for (j, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let [a, b, c, d, word @ ..] = self.qs[j];
            let word = u32::from_le_bytes(word);
            for (l, point) in [a, b, c, d].into_iter().enumerate() {
                let point = codebook::IQ2_XXS[usize::from(point)];
                codes.as_chunks_mut().0[l] = signed(point, even_signs(word >> (7 * l)));
            }
            scales[j] = 2 * (word >> 28) as u8 + 1;
        }
        Unpacked256::without_min(codes, twice(scales), self.d.to_f32() / 8.0)
    }
}

static BOOK: Book<256> = Book::new(&IQ2_XXS_POINTS, 2);

const METHOD: Magnitudes<Book<256>, 8, 3> = Magnitudes {
    book: &BOOK,
    levels: IQ2_MAGNITUDES,
    values: |point| codebook::IQ2_XXS[point].to_le_bytes(),
    even_signs: true,
    unit: 0.125,
};

impl Quantize for BlockIQ2XXS {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockIQ2XXS]) {
        lattice::blocks(x, importance, out, |x, importance| {
            let coded = METHOD.encode::<32>(x, &lattice::costs(x, importance, 1.0));
            let qs =
                std::array::from_fn(|j| {
                    let word = lattice::signs_and_scale(&coded.signs, j, coded.scales[j]);
                    let word = word.to_le_bytes();
                    std::array::from_fn(|i| {
                        if i < 4 { coded.points[4 * j + i] as u8 } else { word[i - 4] }
                    })
                });
            BlockIQ2XXS { d: coded.d, qs }
        });
    }
}
