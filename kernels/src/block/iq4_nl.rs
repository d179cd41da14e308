//! IQ4_NL: 4.5 bits per weight, a scale per 32. As Q4_0 with codes that are denser near zero, where
//! weights are. What IQ4_XS falls back to in rows that are no multiple of 256. Value =
//! `d * VALUES[code]`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::search::{ZERO, emphasize, extreme, mean_square};
use super::{Block, Block32, F16, Unpacked32, nibbles, pack_nibbles};
use gguf_rs_lite::GgmlType;

/// One block of IQ4_NL: 32 elements in 18 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIQ4NL {
    /// Scale.
    pub d: F16,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32.
    pub qs: [u8; 16],
}

/// Values that the codes stand for.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Block for BlockIQ4NL {
    const TY: GgmlType = GgmlType::IQ4_NL;
    const LEN: usize = 32;

    #[inline(always)]
    fn dequantize(&self, out: &mut [f32]) {
        let Unpacked32 { codes, d, .. } = self.unpack();
        for (y, q) in out.iter_mut().zip(codes) {
            *y = d * f32::from(q);
        }
    }
}

impl Encode for BlockIQ4NL {
    const GROUP: usize = 32;
    const CODES: usize = 16;

    /// Without importances errors count by the square of the weight.
    #[inline(always)]
    fn fit(x: &[f32], importance: Option<&[f32]>, _: f32) -> Scales {
        let (x, sigma2) = (all(x), 2.0 * mean_square(x));
        Scales::unrounded(searched_scale(x, &costs(x, importance.map(all), sigma2)), 0.0)
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, 0.0)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group()
    }

    fn level(code: u8) -> i8 {
        VALUES[usize::from(code)]
    }

    #[inline(always)]
    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    #[inline(always)]
    fn code(coder: &Coder, x: f32) -> u8 {
        nearest_code(coder.by * x) as u8
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&nibbles(&self.qs));
        Scales::of_block(self.d, F16::default())
    }

    #[inline(always)]
    fn assemble(codes: &[u8], scales: &Scales) -> BlockIQ4NL {
        BlockIQ4NL { d: scales.d, qs: pack_nibbles(all(codes)) }
    }
}

impl Block32 for BlockIQ4NL {
    const HAS_MIN: bool = false;

    /// Codes in -127..=113.
    #[inline]
    fn unpack(&self) -> Unpacked32 {
        let codes = nibbles(&self.qs).map(|q| VALUES[usize::from(q)]);
        Unpacked32 { codes, d: self.d.to_f32(), m: 0.0 }
    }
}

/// Costs of an error at each element.
#[inline(always)]
pub(super) fn costs(x: &[f32; 32], importance: Option<&[f32; 32]>, sigma2: f32) -> [f32; 32] {
    match importance {
        Some(w) => emphasize(x, w, sigma2),
        None => x.map(|x| x * x),
    }
}

/// The scale of `x ~ scale * VALUES[code]`: 16 candidates, as in [`super::search`].
#[inline(always)]
pub(super) fn searched_scale(x: &[f32; 32], costs: &[f32; 32]) -> f32 {
    /// Candidates take the extreme weight to `VALUES[0]` plus at most this, either way.
    const REACH: i8 = 7;
    let max = extreme(x);
    if max.abs() < ZERO {
        return 0.0;
    }
    let least = f32::from(VALUES[0]);
    // The extreme weight to 127, then near -127.
    let (xl, ll) = sums(x, costs, 1.0 / (-max / least));
    let mut scale = if ll > 0.0 { xl / ll } else { 0.0 };
    let mut best = scale * xl;
    for step in -REACH..=REACH {
        let (xl, ll) = sums(x, costs, (f32::from(step) + least) / max);
        if ll > 0.0 && xl * xl > best * ll {
            scale = xl / ll;
            best = scale * xl;
        }
    }
    scale
}

/// The code whose value is nearest, the upper one of two.
#[inline(always)]
pub(super) fn nearest_code(x: f32) -> usize {
    let mut code = 0;
    for middle in MIDDLES {
        code += usize::from(x >= middle);
    }
    code
}

/// Halfway from each value to the next.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < middles.len() {
        middles[i] = (VALUES[i] as f32 + VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// The sums of `w x value` and `w value^2` for the values nearest to `inverse * x`, one element after
/// the other, as the reference adds: scales that fit equally well are told apart by that.
#[inline(always)]
fn sums(x: &[f32; 32], costs: &[f32; 32], inverse: f32) -> (f32, f32) {
    let mut values = [f32::from(VALUES[0]); 32];
    for (v, middle) in MIDDLES.iter().enumerate() {
        let step = f32::from(VALUES[v + 1]) - f32::from(VALUES[v]);
        for i in 0..32 {
            values[i] += if inverse * x[i] >= *middle { step } else { 0.0 };
        }
    }
    let (mut xl, mut ll) = (0.0, 0.0);
    for i in 0..32 {
        xl += costs[i] * values[i] * x[i];
        ll += costs[i] * values[i] * values[i];
    }
    (xl, ll)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_nearest() {
        for x in (-1500..1500).map(|i| i as f32 / 10.0) {
            let error = |code: usize| (f32::from(VALUES[code]) - x).abs();
            let best = (0..16).map(error).fold(f32::MAX, f32::min);
            assert_eq!(error(nearest_code(x)), best, "{x}");
        }
        assert_eq!([-7.0, 8.5e-3, 1e30].map(nearest_code), [7, 8, 15]);
    }
}
