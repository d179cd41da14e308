//! Widening of quantized keys and values, and the Hadamard transform: [`crate::float`]'s, eight
//! numbers at a time.

use super::vector::*;
use crate::float::quantized::{BLOCK, check_lanes, check_rows, distances, hadamard_block};
use crate::float::{self, half_to_f32};

pub(super) fn widen_lanes_q8_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]) {
    check_lanes(codes.len(), BLOCK, scales.len(), lanes, out.len());
    if !lanes.is_multiple_of(8) {
        return float::widen_lanes_q8_0(codes, scales, lanes, out);
    }
    let blocks = out.chunks_mut(BLOCK * lanes).zip(codes.chunks(BLOCK * lanes));
    for ((out, codes), scales) in blocks.zip(scales.chunks_exact(lanes)) {
        for (g, scale) in scales.as_chunks().0.iter().enumerate() {
            let scale = u16::widen(scale);
            for (out, codes) in out.chunks_exact_mut(lanes).zip(codes.chunks_exact(lanes)) {
                let codes = signed(codes.as_chunks().0[g]);
                codes.times(scale).store(&mut out.as_chunks_mut().0[g]);
            }
        }
    }
}

pub(super) fn widen_lanes_q4_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]) {
    check_lanes(codes.len(), BLOCK / 2, scales.len(), lanes, out.len());
    if !lanes.is_multiple_of(8) {
        return float::widen_lanes_q4_0(codes, scales, lanes, out);
    }
    let blocks = out.chunks_mut(BLOCK * lanes).zip(codes.chunks(BLOCK / 2 * lanes));
    for ((out, codes), scales) in blocks.zip(scales.chunks_exact(lanes)) {
        let (low, high) = out.split_at_mut(out.len().min(BLOCK / 2 * lanes));
        for (g, scale) in scales.as_chunks().0.iter().enumerate() {
            let scale = u16::widen(scale);
            for (out, shift) in [(&mut *low, 0), (&mut *high, 4)] {
                for (out, codes) in out.chunks_exact_mut(lanes).zip(codes.chunks_exact(lanes)) {
                    let codes = signed(nibbles(codes.as_chunks().0[g], shift));
                    codes.times(scale).store(&mut out.as_chunks_mut().0[g]);
                }
            }
        }
    }
}

pub(super) fn widen_rows_q8_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]) {
    let n_blocks = check_rows(codes.len(), BLOCK, scales.len(), dim, out.len());
    let rows = codes.chunks_exact(n_blocks * BLOCK).zip(scales.chunks_exact(n_blocks));
    for (out, (codes, scales)) in out.chunks_exact_mut(dim).zip(rows) {
        let blocks = out.chunks_mut(BLOCK).zip(codes.as_chunks::<8>().0.chunks_exact(4));
        for ((out, codes), &scale) in blocks.zip(scales) {
            let scale = F32x8::splat(half_to_f32(scale));
            for (out, codes) in out.chunks_mut(8).zip(codes) {
                store(out, signed(*codes).times(scale));
            }
        }
    }
}

pub(super) fn widen_rows_q4_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]) {
    let n_blocks = check_rows(codes.len(), BLOCK / 2, scales.len(), dim, out.len());
    let rows = codes.chunks_exact(n_blocks * BLOCK / 2).zip(scales.chunks_exact(n_blocks));
    for (out, (codes, scales)) in out.chunks_exact_mut(dim).zip(rows) {
        let blocks = out.chunks_mut(BLOCK).zip(codes.as_chunks::<8>().0.chunks_exact(2));
        for ((out, codes), &scale) in blocks.zip(scales) {
            let scale = F32x8::splat(half_to_f32(scale));
            let codes = [0, 4].map(|shift| [0, 1].map(|i| nibbles(codes[i], shift)));
            for (out, codes) in out.chunks_mut(8).zip(codes.as_flattened()) {
                store(out, signed(*codes).times(scale));
            }
        }
    }
}

/// Up to eight numbers.
#[inline(always)]
fn store(out: &mut [f32], x: F32x8) {
    match out.first_chunk_mut() {
        Some(out) => x.store(out),
        None => x.store_some(out),
    }
}

/// Eight signed bytes as floats.
#[inline(always)]
fn signed(codes: [u8; 8]) -> F32x8 {
    let bytes = join(u64::from_le_bytes(codes), 0);
    F32x8(widen(vmovl_s8(vget_low_s8(bytes))).map(vcvtq_f32_s32))
}

/// Nibbles from bit `shift` on, less 8.
#[inline(always)]
fn nibbles(codes: [u8; 8], shift: u32) -> [u8; 8] {
    codes.map(|code| (code >> shift & 15).wrapping_sub(8))
}

pub(super) fn hadamard(x: &mut [f32]) {
    let block = hadamard_block(x.len());
    if block < 8 {
        return float::hadamard(x);
    }
    let factor = F32x8::splat(1.0 / (block as f32).sqrt());
    for x in x.chunks_exact_mut(block) {
        let (groups, _) = x.as_chunks_mut::<8>();
        for x in groups.iter_mut() {
            // Pairs at distance 1, then 2, then 4; the numbers in brackets are the lanes' places.
            let F32x8([a, b]) = F32x8::load(x);
            let (even, odd) = (vuzp1q_f32(a, b), vuzp2q_f32(a, b));
            let (a, b) = (vaddq_f32(even, odd), vsubq_f32(even, odd)); // [0 2 4 6] [1 3 5 7]
            let (first, second) = (vuzp1q_f32(a, b), vuzp2q_f32(a, b)); // [0 4 1 5] [2 6 3 7]
            let (a, b) = (vaddq_f32(first, second), vsubq_f32(first, second));
            let (low, high) = (vuzp1q_f32(a, b), vuzp2q_f32(a, b)); // [0 1 2 3] [4 5 6 7]
            F32x8([vaddq_f32(low, high), vsubq_f32(low, high)]).store(x);
        }
        for distance in distances(block / 8) {
            for pair in groups.chunks_exact_mut(2 * distance) {
                let (a, b) = pair.split_at_mut(distance);
                for (a, b) in a.iter_mut().zip(b) {
                    let (x, y) = (F32x8::load(a), F32x8::load(b));
                    x.plus(y).store(a);
                    x.minus(y).store(b);
                }
            }
        }
        for x in groups {
            F32x8::load(x).times(factor).store(x);
        }
    }
}
