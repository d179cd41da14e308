//! TQ1_0: 1.6875 bits per weight, for models trained to be ternary: five values of -1, 0 and 1 in a
//! byte. Value = `d * (trit - 1)`.
//!
//! A byte is the fraction `0.t0 t1 t2 t3 t4` in base 3, in units of 1/256 and rounded up: times
//! three, the next trit moves above the point.

use super::encode::{Coder, Encode, Group, Scales};
use super::search::extreme;
use super::tq2_0::ternary;
use super::{Block, Block256, F16, Unpacked256};
use gguf_rs_lite::GgmlType;

/// One block of TQ1_0: 256 elements in 54 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockTQ1_0 {
    /// Trit `n` of byte `l` is element `32n + l`.
    pub first: [u8; 32],
    /// Trit `n` of byte `l` is element `160 + 16n + l`.
    pub second: [u8; 16],
    /// Trit `n` of byte `l`, of four, is element `240 + 4n + l`.
    pub third: [u8; 4],
    /// Scale.
    pub d: F16,
}

impl Block for BlockTQ1_0 {
    const TY: GgmlType = GgmlType::TQ1_0;
    const LEN: usize = 256;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl Encode for BlockTQ1_0 {
    const GROUP: usize = 256;
    const CODES: usize = 3;

    /// The largest magnitude is the scale; importances are ignored, in a ternary row they gain
    /// nothing.
    #[inline(always)]
    fn fit(x: &[f32], _: Option<&[f32]>, _: f32) -> Scales {
        Scales::unrounded(extreme(x).abs(), 0.0)
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, 0.0)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group()
    }

    fn level(code: u8) -> i8 {
        code as i8 - 1
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        ternary(coder, x)
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&self.unpack().codes.map(|q| (q + 1) as u8));
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockTQ1_0 {
        BlockTQ1_0 {
            first: pack_trits(&codes[..160]),
            second: pack_trits(&codes[160..240]),
            third: pack_trits(&codes[240..]),
            d: scales.d,
        }
    }
}

impl Block256 for BlockTQ1_0 {
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    /// Codes in -1..=1.
    #[inline]
    fn unpack(&self) -> Unpacked256 {
        let mut codes = [0; 256];
        unpack_trits(&self.first, &mut codes[..160]);
        unpack_trits(&self.second, &mut codes[160..240]);
        unpack_trits(&self.third, &mut codes[240..]);
        Unpacked256::without_min(codes, [1; 16], self.d.to_f32())
    }
}

/// Powers of three, modulo 256.
pub(crate) const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

#[inline(always)]
fn unpack_trits<const N: usize>(bytes: &[u8; N], codes: &mut [i8]) {
    for (codes, power) in codes.as_chunks_mut::<N>().0.iter_mut().zip(POWERS) {
        *codes = bytes.map(|byte| {
            let fraction = u16::from(byte.wrapping_mul(power));
            ((fraction * 3) >> 8) as i8 - 1
        });
    }
}

/// The inverse of [`unpack_trits`]; trits that are missing are zero.
#[inline(always)]
fn pack_trits<const N: usize>(codes: &[u8]) -> [u8; N] {
    std::array::from_fn(|l| {
        let trit = |n: usize| codes.get(n * N + l).copied().unwrap_or(0);
        let digits = (0..POWERS.len()).fold(0, |digits, n| digits * 3 + u32::from(trit(n)));
        (digits * 256).div_ceil(243) as u8
    })
}
