//! [`crate::interleave`] by 8x8 transposes of words: both ways at some 10 bytes per cycle.

use super::mem::{load, store};
use super::pack::transpose;
use crate::interleave::Parts;
use std::arch::x86_64::*;

/// Words and rows of a tile.
const TILE: usize = 8;

/// A group of `LANES` rows to their interleaved form.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn interleave<const LANES: usize>(parts: Parts, rows: &[u8], out: &mut [u8]) {
    let row_bytes = rows.len() / LANES;
    let tiled = parts.words / TILE * TILE;
    for (b, out) in out.chunks_exact_mut(LANES * parts.block).enumerate() {
        let (words, rests) = out.split_at_mut(LANES * 4 * parts.words);
        let block = |r: usize| &rows[r * row_bytes + b * parts.block..][..parts.block];
        for lane in (0..LANES).step_by(TILE) {
            for word in (0..tiled).step_by(TILE) {
                let mut tile = [_mm256_setzero_si256(); TILE];
                for i in 0..TILE {
                    let from = &block(lane + i)[parts.words_at + 4 * word..];
                    tile[i] = load(from.first_chunk::<32>().expect("eight words of a row"));
                }
                let tile = transpose(tile);
                for i in 0..TILE {
                    let to = &mut words[4 * ((word + i) * LANES + lane)..];
                    store(to.first_chunk_mut::<32>().expect("a word of eight rows"), tile[i]);
                }
            }
        }
        for r in 0..LANES {
            let block = block(r);
            for word in tiled..parts.words {
                let from = &block[parts.words_at + 4 * word..][..4];
                words[4 * (word * LANES + r)..][..4].copy_from_slice(from);
            }
            parts.swap(&mut words[4 * r..], LANES);
            let rest = &block[parts.rest_at..][..parts.rest];
            rests[r * parts.rest..][..parts.rest].copy_from_slice(rest);
        }
    }
}

/// The inverse of [`interleave`].
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::isa) fn restore<const LANES: usize>(parts: Parts, group: &[u8], out: &mut [u8]) {
    let row_bytes = out.len() / LANES;
    let tiled = parts.words / TILE * TILE;
    for (b, group) in group.chunks_exact(LANES * parts.block).enumerate() {
        let (words, rests) = group.split_at(LANES * 4 * parts.words);
        let block =
            |r: usize| r * row_bytes + b * parts.block..r * row_bytes + (b + 1) * parts.block;
        for lane in (0..LANES).step_by(TILE) {
            for word in (0..tiled).step_by(TILE) {
                let mut tile = [_mm256_setzero_si256(); TILE];
                for i in 0..TILE {
                    let from = &words[4 * ((word + i) * LANES + lane)..];
                    tile[i] = load(from.first_chunk::<32>().expect("a word of eight rows"));
                }
                let tile = transpose(tile);
                for i in 0..TILE {
                    let to = &mut out[block(lane + i)][parts.words_at + 4 * word..];
                    store(to.first_chunk_mut::<32>().expect("eight words of a row"), tile[i]);
                }
            }
        }
        for r in 0..LANES {
            let block = &mut out[block(r)];
            for word in tiled..parts.words {
                let from = &words[4 * (word * LANES + r)..][..4];
                block[parts.words_at + 4 * word..][..4].copy_from_slice(from);
            }
            parts.swap(&mut block[parts.words_at..], 1);
            let rest = &mut block[parts.rest_at..][..parts.rest];
            rest.copy_from_slice(&rests[r * parts.rest..][..parts.rest]);
        }
    }
}
