//! Q4_K: 4.5 bits per weight, the usual choice. Super-blocks of 8 groups of 32, each with a 6-bit
//! scale and minimum. Value = `d * scale * code - dmin * min`.

use super::search::{AffineMethod, Grid};
use super::{
    Block, Block256, F16, Quantize, Unpacked256, for_each_256, pack_scales_and_mins,
    scales_and_mins, twice,
};
use gguf_rs_lite::GgmlType;

/// One block of Q4_K: 256 elements in 144 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minimums.
    pub dmin: F16,
    /// 6-bit scales and minimums of 32 elements each.
    pub scales: [u8; 12],
    /// 4-bit codes.
    pub qs: [u8; 128],
}

impl Block for BlockQ4K {
    const TY: GgmlType = GgmlType::Q4_K;
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Quantize for BlockQ4K {
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [BlockQ4K]) {
        for_each_256(x, importance, out, |x, importance| {
            let q = METHOD.quantize::<32, 8>(x, importance);
            let scales = pack_scales_and_mins(&q.scales, &q.mins);
            BlockQ4K { d: q.d, dmin: q.dmin, scales, qs: pack_low(&q.codes) }
        });
    }
}

impl Block256 for BlockQ4K {
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    /// Codes in 0..=15: of each 32 bytes the low nibbles are 32 elements, the high ones the next.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        for (codes, qs) in codes.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)) {
            let (low, high) = codes.split_at_mut(32);
            for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
                *low = (q & 15) as i8;
                *high = (q >> 4) as i8;
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

const METHOD: AffineMethod = AffineMethod {
    code_max: 15.0,
    scale_max: 63.0,
    grid: Grid { first: -1.0, step: 0.1, steps: 20, absolute: false },
    add_rms: true,
    sigma2_factor: 2.0,
};

/// The low four bits of 256 codes: byte `32p + l` holds elements `64p + l` and `64p + 32 + l`.
pub(crate) fn pack_low(codes: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let low = 64 * (i / 32) + i % 32;
        codes[low] & 15 | codes[low + 32] << 4
    })
}
