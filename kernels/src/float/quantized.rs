//! Quantized keys and values: their widening, and the rotation that makes four bits enough.
//!
//! Codes and scales are those of the blocks of that name, apart: a scale, the bits of a half, for
//! 32 codes. Blocks are those of rows (values, a row per token) or of lanes (keys, a lane per
//! token: code `i` of lane `j` is at `[i][j]`). A last block may be longer than what is asked for.

use super::half_to_f32;

/// Elements that share a scale.
pub(crate) const BLOCK: usize = 32;

/// `out[i][j] = codes[i][j] * scales[i / 32][j]`; `out: [dim][lanes]`, the codes are signed bytes.
pub fn widen_lanes_q8_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]) {
    check_lanes(codes.len(), BLOCK, scales.len(), lanes, out.len());
    for (i, out) in out.chunks_exact_mut(lanes).enumerate() {
        let scales = &scales[i / BLOCK * lanes..];
        for ((out, &code), &scale) in out.iter_mut().zip(&codes[i * lanes..]).zip(scales) {
            *out = f32::from(code.cast_signed()) * half_to_f32(scale);
        }
    }
}

/// `out[i][j] = (code - 8) * scales[i / 32][j]`; of a block's 32 codes the first 16 are the low
/// nibbles of `[16][lanes]` bytes, the others the high ones.
pub fn widen_lanes_q4_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]) {
    check_lanes(codes.len(), BLOCK / 2, scales.len(), lanes, out.len());
    for (i, out) in out.chunks_exact_mut(lanes).enumerate() {
        let (block, in_block) = (i / BLOCK, i % BLOCK);
        let codes = &codes[(block * (BLOCK / 2) + in_block % (BLOCK / 2)) * lanes..];
        let scales = &scales[block * lanes..];
        for ((out, &byte), &scale) in out.iter_mut().zip(codes).zip(scales) {
            *out = nibble(byte, in_block) * half_to_f32(scale);
        }
    }
}

/// `out[r][i] = codes[r][i] * scales[r][i / 32]`; `out: [rows][dim]`, the codes are signed bytes.
pub fn widen_rows_q8_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]) {
    let n_blocks = check_rows(codes.len(), BLOCK, scales.len(), dim, out.len());
    let rows = codes.chunks_exact(n_blocks * BLOCK).zip(scales.chunks_exact(n_blocks));
    for (out, (codes, scales)) in out.chunks_exact_mut(dim).zip(rows) {
        for (i, (out, &code)) in out.iter_mut().zip(codes).enumerate() {
            *out = f32::from(code.cast_signed()) * half_to_f32(scales[i / BLOCK]);
        }
    }
}

/// As [`widen_rows_q8_0`] with 16 bytes of nibbles per block: [`widen_lanes_q4_0`].
pub fn widen_rows_q4_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]) {
    let n_blocks = check_rows(codes.len(), BLOCK / 2, scales.len(), dim, out.len());
    let rows = codes.chunks_exact(n_blocks * BLOCK / 2).zip(scales.chunks_exact(n_blocks));
    for (out, (codes, scales)) in out.chunks_exact_mut(dim).zip(rows) {
        for (i, out) in out.iter_mut().enumerate() {
            let (block, in_block) = (i / BLOCK, i % BLOCK);
            let byte = codes[block * (BLOCK / 2) + in_block % (BLOCK / 2)];
            *out = nibble(byte, in_block) * half_to_f32(scales[block]);
        }
    }
}

fn nibble(byte: u8, in_block: usize) -> f32 {
    let code = if in_block < BLOCK / 2 { byte & 15 } else { byte >> 4 };
    f32::from(code.cast_signed() - 8)
}

/// Asserts that the blocks of `lanes` lanes reach as far as the output.
pub(crate) fn check_lanes(
    codes: usize,
    block_bytes: usize,
    scales: usize,
    lanes: usize,
    out: usize,
) {
    assert!(lanes > 0 && out.is_multiple_of(lanes), "whole lanes");
    let n_blocks = (out / lanes).div_ceil(BLOCK);
    assert!(codes == n_blocks * block_bytes * lanes, "the codes of {n_blocks} blocks");
    assert!(scales == n_blocks * lanes, "a scale per block and lane");
}

/// Asserts that rows of whole blocks are there for the output; returns the blocks of a row.
pub(crate) fn check_rows(
    codes: usize,
    block_bytes: usize,
    scales: usize,
    dim: usize,
    out: usize,
) -> usize {
    assert!(dim > 0 && out.is_multiple_of(dim), "whole rows");
    let (n, n_blocks) = (out / dim, dim.div_ceil(BLOCK));
    assert!(codes == n * n_blocks * block_bytes, "the codes of {n} rows");
    assert!(scales == n * n_blocks, "a scale per block");
    n_blocks
}

/// The normalized Hadamard transform of blocks of the largest power of two that divides the
/// length: orthogonal and its own inverse. In butterflies at distance 1, 2, 4 .. and a division by
/// the root of the block's length.
pub fn hadamard(x: &mut [f32]) {
    let block = hadamard_block(x.len());
    for x in x.chunks_exact_mut(block) {
        for distance in distances(block) {
            for pair in x.chunks_exact_mut(2 * distance) {
                let (a, b) = pair.split_at_mut(distance);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
        }
        super::scale(x, 1.0 / (block as f32).sqrt());
    }
}

/// Length of the blocks of [`hadamard`].
pub(crate) fn hadamard_block(len: usize) -> usize {
    1 << len.trailing_zeros().min(usize::BITS - 1)
}

/// The distances of the butterflies.
pub(crate) fn distances(block: usize) -> impl Iterator<Item = usize> {
    (0..block.trailing_zeros()).map(|i| 1 << i)
}
