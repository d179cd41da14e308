//! Quantizing activations: the bytes of [`crate::act::pack`].

use super::mem::{load_ps, store};
use super::sum::transpose_4;
use crate::act::{ActFormat, ActPlan, ActUnit, Layout, PANEL_TOKENS, PanelOrder, SUMS, scale_of};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pack(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    match (plan.format, plan.layout()) {
        (ActFormat::F32, _) => unit.x.copy_from_slice(x),
        (ActFormat::Q8x32, Layout::Rows) => row(x, unit),
        (ActFormat::Q8x32, Layout::Panels) => panel(plan, x, unit),
    }
}

/// One token.
#[target_feature(enable = "avx2,fma,f16c")]
fn row(x: &[f32], unit: ActUnit<'_>) {
    let (x, _) = x.as_chunks::<8>().0.as_chunks();
    let (q, _) = unit.q.as_chunks_mut::<32>();
    let (s, _) = unit.s.as_chunks_mut::<SUMS>();
    for (((x, q), d), s) in x.iter().zip(q).zip(unit.d).zip(s) {
        let codes;
        (codes, *d) = block(x);
        store(q, codes);
        *s = sums(codes);
    }
}

/// Up to eight tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn panel(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    let (panel, _) = unit.q.as_chunks_mut::<32>().0.as_chunks_mut::<8>();
    let (d, _) = unit.d.as_chunks_mut::<PANEL_TOKENS>();
    let (s, _) = unit.s.as_chunks_mut::<SUMS>().0.as_chunks_mut::<PANEL_TOKENS>();
    let n = x.len() / plan.cols;
    for (b, ((panel, d), s)) in panel.iter_mut().zip(d).zip(s).enumerate() {
        // Tokens that are not there are zeros.
        let mut words = [_mm256_setzero_si256(); PANEL_TOKENS];
        (*d, *s) = ([0.0; PANEL_TOKENS], [[0; SUMS]; PANEL_TOKENS]);
        for lane in 0..n {
            let (x, _) = x[lane * plan.cols + b * 32..][..32].as_chunks::<8>();
            (words[lane], d[lane]) = block(x.first_chunk().expect("a block"));
            s[lane] = sums(words[lane]);
        }
        let words = transpose(words);
        let words = match plan.order {
            PanelOrder::Plus128 => plus_128(words),
            PanelOrder::ByHalves => by_halves(words),
        };
        for (out, words) in panel.iter_mut().zip(words) {
            store(out, words);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn plus_128(mut words: [__m256i; 8]) -> [__m256i; 8] {
    for words in &mut words {
        *words = _mm256_xor_si256(*words, _mm256_set1_epi8(-128));
    }
    words
}

/// Two codes of the first 16, two of the last, and so on.
#[inline]
#[target_feature(enable = "avx2")]
fn by_halves(words: [__m256i; 8]) -> [__m256i; 8] {
    let mut out = words;
    for k in 0..4 {
        let (low, high) = (words[k], words[4 + k]);
        out[2 * k] = _mm256_blend_epi16::<0xaa>(low, _mm256_slli_epi32::<16>(high));
        out[2 * k + 1] = _mm256_blend_epi16::<0xaa>(_mm256_srli_epi32::<16>(low), high);
    }
    out
}

/// Codes and scale of one block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn block(x: &[[f32; 8]; 4]) -> (__m256i, f32) {
    // As integers magnitudes order as floats do, with infinity and NaN on top.
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut amax = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        amax[i] = _mm256_and_si256(_mm256_castps_si256(load_ps(&x[i])), magnitude);
    }
    let amax =
        _mm256_max_epi32(_mm256_max_epi32(amax[0], amax[1]), _mm256_max_epi32(amax[2], amax[3]));
    let m = _mm_max_epi32(_mm256_castsi256_si128(amax), _mm256_extracti128_si256::<1>(amax));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
    let (d, factor) = scale_of(f32::from_bits(_mm_cvtsi128_si32(m) as u32));
    if factor == 0.0 {
        return (_mm256_setzero_si256(), d);
    }
    let factors = _mm256_set1_ps(factor);
    let (a, b) = (codes_8(&x[0], factors), codes_8(&x[1], factors));
    let (c, e) = (codes_8(&x[2], factors), codes_8(&x[3], factors));
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, e));
    (_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)), d)
}

#[inline]
#[target_feature(enable = "avx2")]
fn codes_8(x: &[f32; 8], factors: __m256) -> __m256i {
    _mm256_cvtps_epi32(_mm256_mul_ps(load_ps(x), factors))
}

/// The sums of the two 16 codes.
#[inline]
#[target_feature(enable = "avx2")]
fn sums(codes: __m256i) -> [i16; SUMS] {
    // Taken as unsigned, each 8 codes make one sum, too large by 128 for each of them.
    let unsigned = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    let x = _mm256_sad_epu8(unsigned, _mm256_setzero_si256());
    let x = _mm256_add_epi32(x, _mm256_shuffle_epi32::<0b01_00_11_10>(x));
    let (low, high) = (_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    [low, high].map(|sum| (_mm_cvtsi128_si32(sum) - 16 * 128) as i16)
}

/// Word `j` of register `i` to word `i` of register `j`.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn transpose(x: [__m256i; 8]) -> [__m256i; 8] {
    let [a, b, c, d] = transpose_4(x[0], x[1], x[2], x[3]);
    let [e, f, g, h] = transpose_4(x[4], x[5], x[6], x[7]);
    [
        _mm256_permute2x128_si256::<0x20>(a, e),
        _mm256_permute2x128_si256::<0x20>(b, f),
        _mm256_permute2x128_si256::<0x20>(c, g),
        _mm256_permute2x128_si256::<0x20>(d, h),
        _mm256_permute2x128_si256::<0x31>(a, e),
        _mm256_permute2x128_si256::<0x31>(b, f),
        _mm256_permute2x128_si256::<0x31>(c, g),
        _mm256_permute2x128_si256::<0x31>(d, h),
    ]
}
