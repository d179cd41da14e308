//! IQ2_S: 2.5625 bits per weight. As IQ2_XS with twice the points and all eight signs. Value =
//! `d / 8 * (2 * scale + 1) * code`.

use super::codebook::{self, signed};
use super::{Block, Block256, F16, Unpacked256, odd_scales};
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
