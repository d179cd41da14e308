//! Q5_K: blocks of 256.

use super::{Block, Block256, F16, Unpacked256, scales_and_mins, twice};
use gguf_rs_lite::GgmlType;

/// One block of Q5_K: 256 elements in 176 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minimums.
    pub dmin: F16,
    /// 6-bit scales and minimums of 32 elements each.
    pub scales: [u8; 12],
    /// Fifth bits.
    pub qh: [u8; 32],
    /// Low four bits.
    pub qs: [u8; 128],
}

impl Block for BlockQ5K {
    const TY: GgmlType = GgmlType::Q5_K;
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockQ5K {
    const HAS_MIN: bool = true;

    /// Codes in 0..=31: low nibbles as in Q4_K; bit `j` of `qh[l]` is the fifth bit of element
    /// `32j + l`.
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (pair, (codes, qs)) in
            codes.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)).enumerate()
        {
            let (low, high) = codes.split_at_mut(32);
            for (((low, high), q), fifth) in low.iter_mut().zip(high).zip(qs).zip(&self.qh) {
                let fifth = fifth >> (2 * pair);
                *low = (q & 15 | (fifth & 1) << 4) as i8;
                *high = (q >> 4 | (fifth >> 1 & 1) << 4) as i8;
            }
        }
        let packed = scales_and_mins(&self.scales);
        Unpacked256 {
            codes,
            scales: twice(packed.map(|p| p.0)),
            mins: twice(packed.map(|p| p.1)),
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
        }
    }
}
