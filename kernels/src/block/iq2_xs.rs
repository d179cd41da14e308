//! IQ2_XS: 2.3125 bits per weight. As IQ2_XXS with twice the points and a scale per 16. Value =
//! `d / 8 * (2 * scale + 1) * code`.

use super::book::Book;
use super::codebook::{self, IQ2_MAGNITUDES, IQ2_XS_POINTS, even_signs, signed};
use super::lattice::{self, Magnitudes};
use super::{Block, Block256, F16, Quantize, Unpacked256, odd_scales};
use gguf_rs_lite::GgmlType;

/// One block of IQ2_XS: 256 elements in 74 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ2XS {
    /// Scale of the scales.
    pub d: F16,
    /// Little-endian words of 8 elements each: 9 bits of a point, 7 signs.
    pub qs: [[u8; 2]; 32],
    /// 4-bit scales of 16 elements each, low nibbles first.
    pub scales: [u8; 8],
}

impl Block for BlockIQ2XS {
    const TY: GgmlType = GgmlType::IQ2_XS;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockIQ2XS {
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    /// Codes in -43..=43.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (codes, &word) in codes.as_chunks_mut().0.iter_mut().zip(&self.qs) {
            let word = u16::from_le_bytes(word);
            let point = codebook::IQ2_XS[usize::from(word & 511)];
            *codes = signed(point, even_signs(u32::from(word >> 9)));
        }
        Unpacked256::without_min(codes, odd_scales(&self.scales), self.d.to_f32() / 8.0)
    }
}

static BOOK: Book<512> = Book::new(&IQ2_XS_POINTS, 2);

const METHOD: Magnitudes<Book<512>, 8, 3> = Magnitudes {
    book: &BOOK,
    levels: IQ2_MAGNITUDES,
    values: |point| codebook::IQ2_XS[point].to_le_bytes(),
    even_signs: true,
    unit: 0.125,
};

impl Quantize for BlockIQ2XS {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockIQ2XS]) {
        lattice::blocks(x, importance, out, |x, importance| {
            let coded = METHOD.encode::<16>(x, &lattice::costs(x, importance, 1.0));
            let word = |i: usize| coded.points[i] | u16::from(coded.signs[i] & 127) << 9;
            BlockIQ2XS {
                d: coded.d,
                qs: std::array::from_fn(|i| word(i).to_le_bytes()),
                scales: lattice::pack_scales(&coded.scales),
            }
        });
    }
}
