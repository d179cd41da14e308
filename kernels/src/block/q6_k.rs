//! Q6_K: blocks of 256.

use super::{Block, Block256, F16, Unpacked256};
use gguf_rs_lite::GgmlType;

/// One block of Q6_K: 256 elements in 210 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ6K {
    /// Low four bits.
    pub ql: [u8; 128],
    /// High two bits.
    pub qh: [u8; 64],
    /// Scales of 16 elements each.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: F16,
}

impl Block for BlockQ6K {
    const TY: GgmlType = GgmlType::Q6_K;
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Block256 for BlockQ6K {
    const HAS_MIN: bool = false;

    /// Codes in -32..=31. Element `128h + 32j + l` has its low nibble in `ql[64h + 32(j % 2) + l]`
    /// (low half of the byte for j < 2, high half after) and bits `2j` of `qh[32h + l]` on top.
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        let halves = self.ql.chunks_exact(64).zip(self.qh.chunks_exact(32));
        for (codes, (ql, qh)) in codes.chunks_exact_mut(128).zip(halves) {
            for (j, plane) in codes.chunks_exact_mut(32).enumerate() {
                let ql = &ql[32 * (j % 2)..][..32];
                for ((code, low), high) in plane.iter_mut().zip(ql).zip(qh) {
                    let low = (low >> (4 * (j / 2))) & 15;
                    let high = (high >> (2 * j)) & 3;
                    *code = (low | high << 4) as i8 - 32;
                }
            }
        }
        let scales = self.scales.map(i16::from);
        Unpacked256 { codes, scales, mins: [0; 16], d: self.d.to_f32(), dmin: 0.0 }
    }
}
