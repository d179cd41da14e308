//! Q1_0: 1.125 bits per weight, a scale per 128. Value = `d` or `-d`.

use super::encode::{Coder, Encode, Group, Scales};
use super::search::sum;
use super::{Block, Block16, F16, Unpacked16};
use gguf_rs_lite::GgmlType;

/// One block of Q1_0: 128 elements in 18 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: F16,
    /// Little-endian words, one for each 32 elements: bit `i` is set if element `i` is positive.
    pub qs: [[u8; 4]; 4],
}

impl Block for BlockQ1_0 {
    const TY: GgmlType = GgmlType::Q1_0;
    const LEN: usize = 128;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        Self::dequantize_parts(self, out);
    }
}

impl Encode for BlockQ1_0 {
    const GROUP: usize = 128;
    const CODES: usize = 2;

    /// The mean magnitude is the scale, which loses least; importances are ignored.
    #[inline(always)]
    fn fit(x: &[f32], _: Option<&[f32]>, _: f32) -> Scales {
        Scales::rounded(sum(x.iter().map(|x| x.abs())) / 128.0, 0.0)
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, 0.0)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group()
    }

    fn level(code: u8) -> i8 {
        2 * code as i8 - 1
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    /// Zero is positive, and so it is under a scale that is not negative.
    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        u8::from(if coder.by < 0.0 { x < 0.0 } else { x >= 0.0 })
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        for (i, code) in codes.iter_mut().enumerate() {
            *code = self.qs.as_flattened()[i / 8] >> (i % 8) & 1;
        }
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockQ1_0 {
        let byte = |i: usize| (0..8).fold(0, |byte, k| byte | codes[8 * i + k] << k);
        let qs = std::array::from_fn(|j| std::array::from_fn(|i| byte(4 * j + i)));
        BlockQ1_0 { d: scales.d, qs }
    }
}

impl Block16 for BlockQ1_0 {
    /// Codes -1 and 1.
    #[inline]
    fn unpack(&self, j: usize) -> Unpacked16 {
        let word = u32::from_le_bytes(self.qs[j]);
        let codes = std::array::from_fn(|i| (word >> i & 1) as i8 * 2 - 1);
        Unpacked16 { codes, d: [self.d.to_f32(); 2] }
    }
}
