//! [`crate::interleave`] by transposes of eight words of eight rows, or four: both ways at some 10
//! bytes per cycle.

use super::mem::{load, load_16, store, store_16};
use super::pack::transpose;
use crate::interleave::Parts;
use std::arch::x86_64::*;

/// Rows of a tile, and words of a whole one.
const TILE: usize = 8;
/// Words of half a tile.
const HALF: usize = TILE / 2;

/// A group of `LANES` rows to their interleaved form.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn interleave<const LANES: usize>(parts: Parts, rows: &[u8], out: &mut [u8]) {
    let row_bytes = rows.len() / LANES;
    let mut from_rows = [&rows[..0]; LANES];
    for r in 0..LANES {
        from_rows[r] = &rows[r * row_bytes..][..row_bytes];
    }
    for (b, out) in out.chunks_exact_mut(LANES * parts.block).enumerate() {
        let (words, rests) = out.split_at_mut(LANES * 4 * parts.words);
        let at = b * parts.block + parts.words_at;
        for lane in (0..LANES).step_by(TILE) {
            let mut word = 0;
            while word + TILE <= parts.words {
                let mut tile = [_mm256_setzero_si256(); TILE];
                for r in 0..TILE {
                    tile[r] = load(first::<32>(from_rows[lane + r], at + 4 * word));
                }
                let tile = transpose(tile);
                for i in 0..TILE {
                    store(first_mut::<32>(words, 4 * ((word + i) * LANES + lane)), tile[i]);
                }
                word += TILE;
            }
            if word + HALF <= parts.words {
                let mut tile = [_mm256_setzero_si256(); HALF];
                for r in 0..HALF {
                    let low = load_16(first::<16>(from_rows[lane + r], at + 4 * word));
                    let high = load_16(first::<16>(from_rows[lane + r + HALF], at + 4 * word));
                    tile[r] = _mm256_set_m128i(high, low);
                }
                let tile = transpose_quarters(tile);
                for i in 0..HALF {
                    store(first_mut::<32>(words, 4 * ((word + i) * LANES + lane)), tile[i]);
                }
                word += HALF;
            }
            for word in word..parts.words {
                for r in 0..TILE {
                    let from = first::<4>(from_rows[lane + r], at + 4 * word);
                    *first_mut(words, 4 * (word * LANES + lane + r)) = *from;
                }
            }
        }
        if parts.is_swapped() {
            (0..LANES).for_each(|r| parts.swap(&mut words[4 * r..], LANES));
        }
        let at = b * parts.block + parts.rest_at;
        for r in 0..LANES {
            copy_rest(parts.rest, (from_rows[r], at), (&mut *rests, r * parts.rest));
        }
    }
}

/// The inverse of [`interleave`].
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn restore<const LANES: usize>(parts: Parts, group: &[u8], out: &mut [u8]) {
    let row_bytes = out.len() / LANES;
    for (b, group) in group.chunks_exact(LANES * parts.block).enumerate() {
        let (words, rests) = group.split_at(LANES * 4 * parts.words);
        let at = b * parts.block + parts.words_at;
        for lane in (0..LANES).step_by(TILE) {
            let row = |r: usize, word: usize| (lane + r) * row_bytes + at + 4 * word;
            let mut word = 0;
            while word + TILE <= parts.words {
                let mut tile = [_mm256_setzero_si256(); TILE];
                for i in 0..TILE {
                    tile[i] = load(first::<32>(words, 4 * ((word + i) * LANES + lane)));
                }
                let tile = transpose(tile);
                for r in 0..TILE {
                    store(first_mut::<32>(out, row(r, word)), tile[r]);
                }
                word += TILE;
            }
            if word + HALF <= parts.words {
                let mut tile = [_mm256_setzero_si256(); HALF];
                for i in 0..HALF {
                    tile[i] = load(first::<32>(words, 4 * ((word + i) * LANES + lane)));
                }
                let tile = transpose_quarters(tile);
                for r in 0..HALF {
                    let high = _mm256_extracti128_si256::<1>(tile[r]);
                    let low = _mm256_castsi256_si128(tile[r]);
                    store_16(first_mut::<16>(out, row(r, word)), low);
                    store_16(first_mut::<16>(out, row(r + HALF, word)), high);
                }
                word += HALF;
            }
            for word in word..parts.words {
                for r in 0..TILE {
                    let from = first::<4>(words, 4 * (word * LANES + lane + r));
                    *first_mut(out, row(r, word)) = *from;
                }
            }
        }
        for r in 0..LANES {
            let block = r * row_bytes + b * parts.block;
            if parts.is_swapped() {
                parts.swap(&mut out[block..][..parts.block][parts.words_at..], 1);
            }
            copy_rest(parts.rest, (rests, r * parts.rest), (&mut *out, block + parts.rest_at));
        }
    }
}

/// Four words each of rows `i` and `i + 4`, to word `i` of eight rows; and the other way round.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_quarters([a, b, c, d]: [__m256i; HALF]) -> [__m256i; HALF] {
    let low = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
    let high = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
    [
        _mm256_unpacklo_epi64(low[0], low[1]),
        _mm256_unpackhi_epi64(low[0], low[1]),
        _mm256_unpacklo_epi64(high[0], high[1]),
        _mm256_unpackhi_epi64(high[0], high[1]),
    ]
}

/// Copies the bytes of a row's block that fill no word from and to a place. They are few, and a copy
/// of a length that is not known would be a call.
#[inline(always)]
fn copy_rest(rest: usize, (from, at): (&[u8], usize), (to, to_at): (&mut [u8], usize)) {
    match rest {
        0 => {}
        1 => to[to_at] = from[at],
        2 => *first_mut::<2>(to, to_at) = *first(from, at),
        rest => to[to_at..][..rest].copy_from_slice(&from[at..][..rest]),
    }
}

#[inline(always)]
fn first<const N: usize>(x: &[u8], at: usize) -> &[u8; N] {
    x[at..].first_chunk().expect("a word of each row")
}

#[inline(always)]
fn first_mut<const N: usize>(x: &mut [u8], at: usize) -> &mut [u8; N] {
    x[at..].first_chunk_mut().expect("a word of each row")
}
