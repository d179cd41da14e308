//! Decoding from interleaved rows of two codes of every four ([`crate::block::two_of_four`]): as
//! [`super::lanes`], with a token's codes shuffled to the weights that are kept.
//!
//! A load spreads eight codes of a token over all lanes; the places of four kept weights, two of the
//! first four and two of the last, are the shuffle's control. Then products are those of dense rows.

use super::dot::Dot;
use super::lanes::{LANES, write};
use super::lines::AHEAD_BYTES;
use super::mem::{load, load_16, pin, prefetch, spread_8, store};
use super::{reorder, unpack::shifted};
use crate::act::Acts;
use crate::block::two_of_four::{self, TwoOfFour};
use crate::interleave::{Parts, groups};
use crate::isa::tokens::{Rows, few_tokens, interleaved_matmul, parts_of};
use crate::table::{GroupBlocks, Interleaved, InterleavedFn};
use std::arch::x86_64::*;

/// The form of `LANES` rows to a group, with its kernel.
pub(in crate::isa) const fn form<B: TwoOfFour, const LANES: usize>(
    matmul: InterleavedFn,
) -> Interleaved {
    Interleaved {
        lanes: LANES,
        matmul,
        interleave: |_, rows, out| two_of_four::interleave::<B, LANES>(rows, out),
        // SAFETY: the CPU has the features, see the head of `mod.rs`.
        restore: |_, group, out| unsafe { restore::<B, LANES>(group, out) },
        blocks: GroupBlocks::Sparse(B::BYTES),
    }
}

interleaved_matmul! {
    /// Products of interleaved rows.
    pub(in crate::isa) fn matmul<B: TwoOfFour, D: Dot>, "avx2,fma,f16c",
    LANES, |rows, x, N| group::<B, D, N>(rows, &x), write
}

/// A packed block of each row.
#[derive(Clone, Copy)]
struct Column<'a> {
    words: &'a [[u8; 32]],
    scales: &'a [u8; 2 * LANES],
}

impl<'a> Column<'a> {
    #[inline(always)]
    fn new<B: TwoOfFour>(group: &'a [u8], block: usize) -> Self {
        let column = &group[block * LANES * B::BYTES..][..LANES * B::BYTES];
        let (words, scales) = column.split_at(LANES * 4 * B::WORDS);
        let scales = scales.first_chunk().expect("a half of each row");
        Column { words: words.as_chunks().0, scales }
    }
}

/// The places of kept codes `4k..4k + 4` of each row, in their bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn places(all: __m256i, k: usize) -> __m256i {
    _mm256_and_si256(shifted(all, 2 * k as i32), _mm256_set1_epi8(3))
}

/// Kept codes `4k..4k + 4` of each row; `word` gives words of codes.
#[inline]
#[target_feature(enable = "avx2")]
fn codes<B: TwoOfFour>(word: impl Fn(usize) -> __m256i, k: usize) -> __m256i {
    if !B::NIBBLES {
        return word(k);
    }
    let nibbles = _mm256_and_si256(shifted(word(k % 2), k as i32 / 2 * 4), _mm256_set1_epi8(15));
    _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8))
}

/// Unrolls a loop over the four words of kept codes.
macro_rules! four_times {
    (|$k:ident| $body:expr) => {
        four_times!(|$k| $body, 0 1 2 3)
    };
    (|$k:ident| $body:expr, $($i:literal)*) => {$({
        const $k: usize = $i;
        $body
    })*};
}
pub(in crate::isa) use four_times;

/// A group of rows.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn group<B: TwoOfFour, D: Dot, const N: usize>(group: &[u8], x: &Rows<'_, N>) -> [__m256; N] {
    let plus_128 = _mm256_set1_epi8(-128);
    let mut acc = [_mm256_setzero_ps(); N];
    let x = x.as_long_as(x.d[0].len());
    for i in 0..x.d[0].len() {
        let b = Column::new::<B>(group, i);
        // Slower than memory: the hardware would not follow.
        for line in (0..LANES * B::BYTES).step_by(64) {
            prefetch::<_MM_HINT_T0, _>(&b.words[0], AHEAD_BYTES + line);
        }
        let all = load(&b.words[0]);
        let mut isum = [_mm256_setzero_si256(); N];
        let mut offset = _mm256_setzero_si256();
        four_times!(|K| {
            let w = codes::<B>(|word| load(&b.words[1 + word]), K);
            let places = _mm256_or_si256(places(all, K), _mm256_set1_epi32(0x0404_0000));
            // Tokens' codes plus 128 are unsigned, or |w| <= 128 is, and its sign goes to them: at
            // most 2 * 128 * 127 in an i16, and of nibbles 8 * 8 * 127.
            let magnitude = _mm256_abs_epi8(w);
            if D::FOUR {
                offset = D::dot(offset, plus_128, w);
            }
            for t in 0..N {
                let eight = spread_8(&x.q[t][i].as_chunks::<8>().0[K]);
                let q = _mm256_shuffle_epi8(eight, places);
                if D::FOUR {
                    isum[t] = D::dot(isum[t], _mm256_xor_si256(q, plus_128), w);
                    continue;
                }
                let q = _mm256_sign_epi8(q, w);
                isum[t] = match B::NIBBLES {
                    true => {
                        let pairs = _mm256_maddubs_epi16(magnitude, q);
                        pin(_mm256_add_epi16(isum[t], pairs))
                    }
                    false => D::dot(isum[t], magnitude, q),
                };
            }
        });
        let d = _mm256_cvtph_ps(load_16(b.scales));
        for t in 0..N {
            let isum = match (D::FOUR, B::NIBBLES) {
                (true, _) => _mm256_sub_epi32(isum[t], offset),
                (false, true) => _mm256_madd_epi16(isum[t], _mm256_set1_epi16(1)),
                (false, false) => isum[t],
            };
            let d = _mm256_mul_ps(d, _mm256_set1_ps(x.d[t][i]));
            acc[t] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(isum), acc[t]);
        }
    }
    acc
}

/// The native rows of a group.
#[target_feature(enable = "avx2")]
fn restore<B: TwoOfFour, const ROWS: usize>(group: &[u8], out: &mut [u8]) {
    let parts = Parts::of(B::TY);
    let row_bytes = out.len() / ROWS;
    // As long as any type's columns, of 16 rows.
    let (mut column, mut blocks) = ([0; 16 * 34], [0; 16 * 34]);
    let bytes = ROWS * parts.block;
    for (b, packed) in group.chunks_exact(ROWS * B::BYTES).enumerate() {
        let (words, scales) = packed.split_at(ROWS * 4 * B::WORDS);
        let (words, _) = words.as_chunks::<32>();
        let (dense, rest) = column[..bytes].split_at_mut(ROWS * 4 * parts.words);
        let (dense, _) = dense.as_chunks_mut::<32>();
        rest.copy_from_slice(scales);
        // Registers of eight rows, so many to a word.
        let stride = ROWS / LANES;
        for lane in 0..stride {
            let all = load(&words[lane]);
            let mut spread = [_mm256_setzero_si256(); 8];
            for k in 0..4 {
                let w = codes::<B>(|word| load(&words[(1 + word) * stride + lane]), k);
                [spread[2 * k], spread[2 * k + 1]] = in_places(w, places(all, k));
            }
            for w in 0..parts.words {
                let word = if B::NIBBLES {
                    let eight = _mm256_set1_epi8(8);
                    let low = _mm256_add_epi8(spread[w], eight);
                    let high = _mm256_add_epi8(spread[w + 4], eight);
                    _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
                } else {
                    spread[w]
                };
                store(&mut dense[w * stride + lane], word);
            }
        }
        reorder::restore::<ROWS>(parts, &column[..bytes], &mut blocks[..bytes]);
        for (r, block) in blocks[..bytes].chunks_exact(parts.block).enumerate() {
            out[r * row_bytes + b * parts.block..][..parts.block].copy_from_slice(block);
        }
    }
}

/// Two words of each row: the first two of four kept codes in their places among zeros, and the last.
#[inline]
#[target_feature(enable = "avx2")]
fn in_places(codes: __m256i, places: __m256i) -> [__m256i; 2] {
    let all = _mm256_set1_epi32(0x0302_0100);
    let mut words = [_mm256_setzero_si256(); 2];
    for half in 0..2 {
        for i in 0..2 {
            // Byte `2 * half + i` of a lane, four times.
            let of_lane = _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
            let byte = _mm_add_epi8(of_lane, _mm_set1_epi8(2 * half as i8 + i));
            let byte = _mm256_broadcastsi128_si256(byte);
            let is_place = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(places, byte), all);
            let code = _mm256_and_si256(_mm256_shuffle_epi8(codes, byte), is_place);
            words[half] = _mm256_or_si256(words[half], code);
        }
    }
    words
}
