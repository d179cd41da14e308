//! Q6_K: 6.5625 bits per weight. Super-blocks of 16 groups of 16, each with an 8-bit scale. Value =
//! `d * scale * (code - 32)`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::search;
use super::side_by_side;
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

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockQ6K {
    const GROUP: usize = 16;
    const CODES: usize = 64;

    /// Without importances errors count by the square of the weight.
    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, _: f32) -> Scales {
        let groups = x.as_chunks::<16>().0;
        let costs = std::array::from_fn(|g| match importance {
            Some(importance) => importance.as_chunks().0[g],
            None => groups[g].map(|x| x * x),
        });
        let scales = side_by_side::symmetric_groups(groups, &costs, CODES);
        scales_of(search::symmetric_scales(&scales, SCALES))
    }

    fn compose(groups: &[Group]) -> Scales {
        let scales = std::array::from_fn(|g| groups[g].scale);
        scales_of(search::symmetric_scales(&scales, SCALES))
    }

    fn group(scales: &Scales, g: usize) -> Group {
        scales.group_without_min(scales.scales[g] as i8)
    }

    fn level(code: u8) -> i8 {
        code as i8 - 32
    }

    #[inline(always)]
    fn coder(scales: &Scales, g: usize) -> Coder {
        Coder::by_scale(Self::group(scales, g))
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        search::symmetric_code(coder, x, CODES)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&self.unpack().codes.map(|q| (q + 32) as u8));
        scales_of((self.scales, self.d))
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ6K {
        let codes = all(codes);
        let scale = scales.scales.map(|s| s as i8);
        BlockQ6K { ql: pack_low(codes), qh: pack_high(codes), scales: scale, d: scales.d }
    }
}

/// Signed scales as stored.
#[inline(always)]
fn scales_of((scales, d): ([i8; 16], F16)) -> Scales {
    Scales::new(d, F16::default(), scales.map(|s| s as u8), [0; 16])
}

impl Block256 for BlockQ6K {
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    /// Codes in -32..=31. Element `128h + 32j + l` has its low nibble in `ql[64h + 32(j % 2) + l]`
    /// (low half of the byte for j < 2, high half after) and bits `2j` of `qh[32h + l]` on top.
    #[inline]
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
        Unpacked256::without_min(codes, scales, self.d.to_f32())
    }
}

/// See [`BlockQ6K::unpack`].
#[inline(always)]
fn pack_low(codes: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let low = 128 * (i / 64) + i % 64;
        codes[low] & 15 | codes[low + 64] << 4
    })
}

/// See [`BlockQ6K::unpack`].
#[inline(always)]
fn pack_high(codes: &[u8; 256]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let (h, l) = (i / 32, i % 32);
        (0..4).fold(0, |byte, j| byte | codes[128 * h + 32 * j + l] >> 4 << (2 * j))
    })
}

/// Codes are -32..=31.
const CODES: f32 = 32.0;
/// Scales are -128..=127.
const SCALES: f32 = 128.0;
