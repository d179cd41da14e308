//! Decoding from interleaved rows of two codes of every four, as AVX2's kernels of the same name,
//! sixteen rows to a group.

use super::lanes::{LANES, write};
use super::mem::{load, load_32, spread_8};
use crate::act::Acts;
use crate::block::two_of_four::TwoOfFour;
use crate::interleave::groups;
use crate::isa::avx2::lines::FAR_BYTES;
use crate::isa::avx2::mem::prefetch;
use crate::isa::avx2::two_of_four::four_times;
use crate::isa::tokens::{Rows, few_tokens, interleaved_matmul, parts_of};
use std::arch::x86_64::*;

interleaved_matmul! {
    /// Products of interleaved rows.
    pub(super) fn matmul<B: TwoOfFour>, "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
    LANES, |rows, x, N| group::<B, N>(rows, &x), write
}

/// Kept codes `4k..4k + 4` of each row.
#[inline]
#[target_feature(enable = "avx512bw")]
fn codes<B: TwoOfFour>(words: &[[u8; 64]], k: usize) -> __m512i {
    if !B::NIBBLES {
        return load(&words[k]);
    }
    let word = load(&words[k % 2]);
    let word = if k < 2 { word } else { _mm512_srli_epi16::<4>(word) };
    let nibbles = _mm512_and_si512(word, _mm512_set1_epi8(15));
    _mm512_sub_epi8(nibbles, _mm512_set1_epi8(8))
}

/// A group of rows.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn group<B: TwoOfFour, const N: usize>(group: &[u8], x: &Rows<'_, N>) -> [__m512; N] {
    let plus_128 = _mm512_set1_epi8(-128);
    let mut acc = [_mm512_setzero_ps(); N];
    let x = x.as_long_as(x.d[0].len());
    for i in 0..x.d[0].len() {
        let column = &group[i * LANES * B::BYTES..][..LANES * B::BYTES];
        let (words, scales) = column.split_at(LANES * 4 * B::WORDS);
        let (words, _) = words.as_chunks();
        // Slower than memory: the hardware would not follow.
        for line in (0..LANES * B::BYTES).step_by(64) {
            prefetch::<_MM_HINT_T1, _>(&words[0], FAR_BYTES + line);
        }
        let all = load(&words[0]);
        let mut isum = [_mm512_setzero_si512(); N];
        let mut offset = _mm512_setzero_si512();
        four_times!(|K| {
            let w = codes::<B>(&words[1..], K);
            let places = _mm512_srli_epi16::<{ 2 * K as u32 }>(all);
            let places = _mm512_and_si512(places, _mm512_set1_epi8(3));
            let places = _mm512_or_si512(places, _mm512_set1_epi32(0x0404_0000));
            // Tokens' codes are made unsigned, and what that adds is the same for all.
            offset = _mm512_dpbusd_epi32(offset, plus_128, w);
            for t in 0..N {
                let eight = spread_8(&x.q[t][i].as_chunks().0[K]);
                let q = _mm512_shuffle_epi8(eight, places);
                isum[t] = _mm512_dpbusd_epi32(isum[t], _mm512_xor_si512(q, plus_128), w);
            }
        });
        let scales = scales.first_chunk().expect("a half of each row");
        let d = _mm512_cvtph_ps(load_32(scales));
        for t in 0..N {
            let isum = _mm512_cvtepi32_ps(_mm512_sub_epi32(isum[t], offset));
            let d = _mm512_mul_ps(d, _mm512_set1_ps(x.d[t][i]));
            acc[t] = _mm512_fmadd_ps(d, isum, acc[t]);
        }
    }
    acc
}
