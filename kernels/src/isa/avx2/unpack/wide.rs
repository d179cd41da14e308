//! Super-blocks of codebook types, whose codes have 8 bits and a sign: how all of them are laid
//! out, and IQ4_XS, whose codebook is a table of 16; and their expanded form.

use super::super::mem::{load, load_16, store, store_16};
use super::k_quants::codes_256;
use super::{Codes256, EightScales, Scales, Signed256, Unsigned256, half, iq4, pairs_of_halves};
use crate::block::expanded::{Codebook, Expanded};
use crate::block::*;
use std::arch::x86_64::*;

macro_rules! signed_256 {
    ($($block:ident: $max:literal;)*) => {$(
        impl Signed256 for $block {
            const MAX: i32 = $max;
        }
    )*};
}

signed_256! {
    BlockIQ1S: 9;
    BlockIQ1M: 9;
    BlockIQ2XXS: 43;
    BlockIQ2XS: 43;
    BlockIQ2S: 43;
    BlockIQ3XXS: 62;
    BlockIQ3S: 15;
    BlockIQ4XS: 127;
}

/// A super-block of a [`Signed256`], 64 codes at a time: so that two groups of 32, one in either half
/// of a register, are summed at once.
#[derive(Clone, Copy, Default)]
#[repr(align(32))] // no register of codes across cache lines
pub(in crate::isa) struct Wide256 {
    /// Magnitudes of each 64 codes: the first halves of both 32, then the last ones.
    pub magnitudes: [[[u8; 32]; 2]; 4],
    /// Numbers of the same signs.
    pub signs: [[[i8; 32]; 2]; 4],
    /// The scales of those four halves as pairs of i16. If 32 codes have one, only the first row is
    /// used.
    pub scales: [[i32; 4]; 2],
    pub d: f32,
}

impl Wide256 {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn put(&mut self, i: usize, half: usize, codes: __m256i) {
        store(&mut self.magnitudes[i][half], _mm256_abs_epi8(codes));
        store(&mut self.signs[i][half], codes);
    }

    /// Codes by their nibbles in `values`; of each 32 low ones come first, then high ones.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn put_nibbles(&mut self, qs: &[[u8; 16]; 8], values: &[i8; 16]) {
        let (qs, _) = qs.as_flattened().as_chunks::<32>();
        let (values, low) = (_mm256_broadcastsi128_si256(load_16(values)), _mm256_set1_epi8(15));
        for i in 0..4 {
            let both = load(&qs[i]);
            let last = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
            self.put(i, 0, _mm256_shuffle_epi8(values, _mm256_and_si256(both, low)));
            self.put(i, 1, _mm256_shuffle_epi8(values, last));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn codes(&self, i: usize, half: usize) -> __m256i {
        _mm256_sign_epi8(load(&self.magnitudes[i][half]), load(&self.signs[i][half]))
    }

    /// The 16 scales as i16, those of groups of 32 twice.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn all_scales<B: Block256>(&self) -> __m256i {
        let [even, odd] = &self.scales;
        let (even, odd) = (load_16(even), load_16(if B::GROUP == 32 { even } else { odd }));
        _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd))
    }

    /// The scales of codes `[i][half]`, one in either half of a register; `order` is
    /// [`pair_order`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn scale<B: Block256>(&self, i: usize, half: usize, order: __m256i) -> __m256i {
        let half = if B::GROUP == 32 { 0 } else { half };
        _mm256_shuffle_epi8(_mm256_set1_epi32(self.scales[half][i]), order)
    }
}

/// The shuffle that takes the i16 of a pair to either half. Of one it knows the compiler makes three
/// instructions.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn pair_order() -> __m256i {
    static ORDER: [u8; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 16 * 2 + i % 2) as u8;
            i += 1;
        }
        order
    };
    load(std::hint::black_box(&ORDER))
}

/// Two registers in the order of [`Wide256::codes`] to two in that of the elements, and back.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn halves_swapped([a, b]: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

codes_256! {
    BlockIQ4XS: 128, 255, |b| [b.d, F16([0; 2])];
}

/// IQ4_XS.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn iq4_xs(b: &BlockIQ4XS, wide: &mut Wide256) {
    wide.put_nibbles(&b.qs, &iq4_nl::VALUES);
    store_16(&mut wide.scales[0], eight_scales_iq4_xs(b));
    wide.d = half(b.d);
}

/// The codes of IQ4_XS, plus 128.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn iq4_xs_codes(b: &BlockIQ4XS, j: usize) -> __m256i {
    _mm256_xor_si256(iq4(&b.qs[j]), _mm256_set1_epi8(-128))
}

/// The eight scales of IQ4_XS.
#[inline]
#[target_feature(enable = "avx2")]
fn eight_scales_iq4_xs(b: &BlockIQ4XS) -> __m128i {
    // Bits 2j and 2j + 1 to the top of word j, and down again.
    let high = _mm_set1_epi16(i16::from_le_bytes(b.scales_h));
    let up = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    let high = _mm_srli_epi16::<14>(_mm_mullo_epi16(high, up));
    let both = _mm_cvtsi32_si128(i32::from_le_bytes(b.scales_l));
    let both = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(both, _mm_srli_epi16::<4>(both)));
    let scales = _mm_and_si128(both, _mm_set1_epi16(15));
    let scales = _mm_or_si128(scales, _mm_slli_epi16::<4>(high));
    _mm_sub_epi16(scales, _mm_set1_epi16(32))
}

/// The eight scales of IQ4_XS, each twice.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn scales_iq4_xs(b: &BlockIQ4XS) -> Scales {
    let scales = eight_scales_iq4_xs(b);
    let (low, high) = (_mm_unpacklo_epi16(scales, scales), _mm_unpackhi_epi16(scales, scales));
    Scales { scales: _mm256_set_m128i(high, low), mins: _mm256_setzero_si256() }
}

/// Scales of IQ4_XS from their two words.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn of_iq4_xs([d_and_high, low]: [__m256i; 2]) -> EightScales {
    let none = _mm256_setzero_si256();
    let mut scales = [none; 4];
    for w in 0..2 {
        let shuffled = |x, bytes: [usize; 4]| {
            let order = i32::from_le_bytes(bytes.map(|byte| byte as u8));
            // Shuffles see 16 bytes at a time.
            let word = _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
            let order = _mm_add_epi8(_mm_set1_epi32(order), word);
            _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order))
        };
        let low = shuffled(low, [2 * w, 2 * w, 2 * w + 1, 2 * w + 1]);
        let even = _mm256_and_si256(low, _mm256_set1_epi16(0x000f));
        let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(low), _mm256_set1_epi16(0x0f00));
        // Bits 2i and 2i + 1 of a byte to bits 4 and 5 of byte i.
        let high = shuffled(d_and_high, [2 + w; 4]);
        let byte = |x, i: u32| _mm256_and_si256(x, _mm256_set1_epi32(0x30 << (8 * i)));
        let first = byte(_mm256_slli_epi32::<4>(high), 0);
        let second = byte(_mm256_slli_epi32::<2>(high), 1);
        let fourth = byte(_mm256_srli_epi32::<2>(high), 3);
        let top = _mm256_or_si256(first, second);
        let top = _mm256_or_si256(top, _mm256_or_si256(byte(high, 2), fourth));
        let all = _mm256_or_si256(_mm256_or_si256(even, odd), top);
        scales[w] = _mm256_sub_epi8(all, _mm256_set1_epi8(32));
    }
    let [d, _] = pairs_of_halves(d_and_high);
    EightScales { scales, mins: [none; 4], d, dmin: _mm256_setzero_ps() }
}

impl<B: Codebook, const S: usize> Unsigned256 for Expanded<B, S> {
    const OFFSET: i32 = Self::UNSIGNED_ZERO as i32;
    const MAX: i32 = 2 * Self::OFFSET - 1;
}

/// Scales from the words of an expanded block's scales, and of `d`.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn of_expanded<const S: usize>(words: [__m256i; 5]) -> EightScales {
    let none = _mm256_setzero_si256();
    let [a, b, c, d, e] = words;
    let (scales, d) = if S == 8 { ([a, b, none, none], c) } else { ([a, b, c, d], e) };
    EightScales { scales, mins: [none; 4], d: _mm256_castsi256_ps(d), dmin: _mm256_setzero_ps() }
}
