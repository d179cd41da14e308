//! IQ2_S: 2.5625 bits per weight. As IQ2_XS with twice the points and all eight signs. Value =
//! `d / 8 * (2 * scale + 1) * code`.

use super::book::Book;
use super::codebook::{self, IQ2_MAGNITUDES, IQ2_S_POINTS, signed};
use super::lattice::{self, Magnitudes};
use super::{Block, Block256, F16, Quantize, Unpacked256, odd_scales};
use gguf_rs_lite::GgmlType;

/// One block of IQ2_S: 256 elements in 82 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ2S {
    /// Scale of the scales.
    pub d: F16,
    /// Low eight bits of the points of 8 elements each.
    pub qs: [u8; 32],
    /// Signs of 8 elements each.
    pub signs: [u8; 32],
    /// High two bits of four points each.
    pub qh: [u8; 8],
    /// 4-bit scales of 16 elements each, low nibbles first.
    pub scales: [u8; 8],
}

impl Block for BlockIQ2S {
    const TY: GgmlType = GgmlType::IQ2_S;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockIQ2S {
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    /// Codes in -43..=43.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let high = usize::from(self.qh[i / 4] >> (2 * (i % 4)) & 3);
            let point = codebook::IQ2_S[usize::from(self.qs[i]) | high << 8];
            *codes = signed(point, self.signs[i]);
        }
        Unpacked256::without_min(codes, odd_scales(&self.scales), self.d.to_f32() / 8.0)
    }
}

static BOOK: Book<1024> = Book::new(&IQ2_S_POINTS, 2);

const METHOD: Magnitudes<Book<1024>, 8, 3> = Magnitudes {
    book: &BOOK,
    levels: IQ2_MAGNITUDES,
    values: |point| codebook::IQ2_S[point].to_le_bytes(),
    even_signs: false,
    unit: 0.125,
};

impl Quantize for BlockIQ2S {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockIQ2S]) {
        lattice::blocks(x, importance, out, |x, importance| {
            let coded = METHOD.encode::<16>(x, &lattice::costs(x, importance, 2.0));
            let high = |i: usize| (coded.points[i] >> 8) as u8;
            BlockIQ2S {
                d: coded.d,
                qs: std::array::from_fn(|i| coded.points[i] as u8),
                signs: coded.signs,
                qh: std::array::from_fn(|j| {
                    (0..4).fold(0, |bits, l| bits | high(4 * j + l) << (2 * l))
                }),
                scales: lattice::pack_scales(&coded.scales),
            }
        });
    }
}
