//! Quantizing activations: the bytes of [`crate::act::pack`].

use super::mem::{load, load_ps, store, store_16};
use super::sum::sum_8;
use crate::act::{
    ActFormat, ActPlan, ActUnit, Layout, PANEL_TOKENS, SUMS_256, scale_of, store_sums,
};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pack(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    match (plan.format, plan.layout()) {
        (ActFormat::F32, _) => unit.x.copy_from_slice(x),
        (ActFormat::Q8x32, Layout::Rows) => row::<4, 1>(x, unit),
        (ActFormat::Q8x256, Layout::Rows) => row::<32, SUMS_256>(x, unit),
        (ActFormat::Q8x32, Layout::Panels) => panel::<4, 1>(plan, x, unit),
        (ActFormat::Q8x256, Layout::Panels) => panel::<32, SUMS_256>(plan, x, unit),
    }
}

/// One token; a block is `G` groups of eight.
#[target_feature(enable = "avx2,fma,f16c")]
fn row<const G: usize, const SUMS: usize>(x: &[f32], unit: ActUnit<'_>) {
    let (x, _) = x.as_chunks::<8>().0.as_chunks::<G>();
    let (q, _) = unit.q.as_chunks_mut::<32>();
    let (s, _) = unit.s.as_chunks_mut::<SUMS>();
    for (((x, q), d), s) in x.iter().zip(q.chunks_exact_mut(G / 4)).zip(unit.d).zip(s) {
        *d = block(x, q, s);
    }
}

/// Up to eight tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn panel<const G: usize, const SUMS: usize>(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    let (panel, _) = unit.q.as_chunks_mut::<32>();
    let n = x.len() / plan.cols;
    for b in 0..plan.blocks() {
        // Tokens that are not there stay zeros.
        let mut q = [[[0; 32]; 8]; PANEL_TOKENS];
        for lane in 0..PANEL_TOKENS {
            let mut s = [0; SUMS];
            let d = &mut unit.d[b * PANEL_TOKENS + lane];
            *d = 0.0;
            if lane < n {
                let x = &x[lane * plan.cols + b * 8 * G..][..8 * G];
                let x = x.as_chunks::<8>().0.first_chunk::<G>().expect("a block");
                *d = block(x, &mut q[lane][..G / 4], &mut s);
            }
            store_sums(&s, lane, &mut unit.s[b * SUMS * PANEL_TOKENS..][..SUMS * PANEL_TOKENS]);
        }
        for j in 0..G / 4 {
            let mut words = [_mm256_setzero_si256(); 8];
            for lane in 0..8 {
                words[lane] = load(&q[lane][j]);
            }
            let words = transpose(words);
            let out = &mut panel[(b * G / 4 + j) * 8..][..8];
            for (out, words) in out.iter_mut().zip(words) {
                store(out, _mm256_xor_si256(words, _mm256_set1_epi8(-128)));
            }
        }
    }
}

/// Quantizes one block, 32 codes to an array; returns its scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn block<const G: usize>(x: &[[f32; 8]; G], q: &mut [[i8; 32]], s: &mut [i16]) -> f32 {
    // As integers magnitudes order as floats do, with infinity and NaN on top.
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut amax = [_mm256_setzero_si256(); 4];
    for x in x.as_chunks::<4>().0 {
        for i in 0..4 {
            let x = _mm256_and_si256(_mm256_castps_si256(load_ps(&x[i])), magnitude);
            amax[i] = _mm256_max_epi32(amax[i], x);
        }
    }
    let amax =
        _mm256_max_epi32(_mm256_max_epi32(amax[0], amax[1]), _mm256_max_epi32(amax[2], amax[3]));
    let m = _mm_max_epi32(_mm256_castsi256_si128(amax), _mm256_extracti128_si256::<1>(amax));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
    let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
    let (d, factor) = scale_of(f32::from_bits(_mm_cvtsi128_si32(m) as u32));

    let mut sums = [_mm256_setzero_si256(); 8];
    let factors = _mm256_set1_ps(factor);
    for (j, (x, q)) in x.as_chunks::<4>().0.iter().zip(q).enumerate() {
        let codes = if factor == 0.0 {
            _mm256_setzero_si256()
        } else {
            let (a, b) = (codes_8(&x[0], factors), codes_8(&x[1], factors));
            let (c, d) = (codes_8(&x[2], factors), codes_8(&x[3], factors));
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        };
        store(q, codes);
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
        sums[j] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    match s {
        [s] => *s = super::sum::sum_lanes(sums[0]) as i16,
        _ => sums_256(&sums, s),
    }
    d
}

#[inline]
#[target_feature(enable = "avx2")]
fn codes_8(x: &[f32; 8], factors: __m256) -> __m256i {
    _mm256_cvtps_epi32(_mm256_mul_ps(load_ps(x), factors))
}

/// 16 sums of 16 and 8 of 32 from the sums of four of eight registers.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_256(sums: &[__m256i; 8], s: &mut [i16]) {
    // Halves apart: sums of the 16 codes in the low and the high half of each register.
    let zero = _mm256_setzero_si256();
    let mut low = [zero; 8];
    for j in 0..8 {
        low[j] = _mm256_blend_epi32::<0b1111_0000>(sums[j], zero);
    }
    let low = sum_8(&low);
    let all = sum_8(sums);
    let high = _mm256_sub_epi32(all, low);
    let of_16 =
        _mm256_packs_epi32(_mm256_unpacklo_epi32(low, high), _mm256_unpackhi_epi32(low, high));
    let of_32 = _mm256_packs_epi32(all, all);
    let (s, rest) = s.split_first_chunk_mut::<16>().expect("24 sums");
    store(s, of_16);
    let rest = rest.first_chunk_mut::<8>().expect("24 sums");
    store_16(rest, _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00_10_00>(of_32)));
}

/// Word `j` of register `i` to word `i` of register `j`.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(x: [__m256i; 8]) -> [__m256i; 8] {
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

/// As [`transpose`] in each half.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_4(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}
