//! Groups of rows of Q8_0 of whose codes at most half are not zero, without the zeros.
//!
//! A group has the codes that are not zero in the order of [`crate::interleave`], then for each column
//! of blocks a mask of 64 bits for each of its words (four codes of sixteen rows), and the scales.
//! Codes that are left out are put back on the way to the product: so that is the one of dense rows,
//! with the same bits. A row takes 5.5 bits per weight, whatever share beyond half is zero.

use crate::act::Acts;
use crate::block::{BlockQ8_0, as_blocks, as_blocks_mut};
use crate::interleave::{Parts, groups};
use crate::isa::avx2::lines::FAR_BYTES;
use crate::isa::avx2::mem::prefetch;
use crate::isa::avx2::reorder;
use crate::isa::avx512vnni::lanes::{LANES, write};
use crate::isa::avx512vnni::mem::{load, load_32, spread, store};
use crate::isa::tokens::{Rows, few_tokens, parts_of};
use gguf_rs_lite::GgmlType;
use std::arch::x86_64::*;

/// Words of a block.
const WORDS: usize = 8;
/// Bytes of a column's codes, where half of them are kept.
const CODE_BYTES: usize = LANES * 16;
/// Bytes of a column's masks and scales.
const HEAD_BYTES: usize = 8 * WORDS + 2 * LANES;
/// Bytes of a block of a row.
pub(super) const BLOCK_BYTES: usize = (CODE_BYTES + HEAD_BYTES) / LANES;
/// Bytes of a column of native blocks.
const COLUMN_BYTES: usize = LANES * size_of::<BlockQ8_0>();

const _: () = assert!(BLOCK_BYTES * LANES == CODE_BYTES + HEAD_BYTES);
/// Reading a word's codes never goes beyond the group.
const _: () = assert!(HEAD_BYTES >= 64);

/// A group's columns: masks and scales.
#[inline(always)]
fn heads(group: &[u8]) -> &[[u8; HEAD_BYTES]] {
    let columns = group.len() / (CODE_BYTES + HEAD_BYTES);
    group[columns * CODE_BYTES..].as_chunks().0
}

/// The mask of a word.
#[inline(always)]
fn mask(head: &[u8; HEAD_BYTES], word: usize) -> u64 {
    u64::from_le_bytes(head.as_chunks().0[word])
}

/// The codes from `at` on that a mask has places for, zeros elsewhere: all of them plus 128.
#[inline]
#[target_feature(enable = "avx512vbmi2,avx512bw")]
fn expand(group: &[u8], at: usize, mask: u64) -> __m512i {
    let codes = load(group[at..].first_chunk().expect("behind all codes are masks"));
    _mm512_mask_expand_epi8(_mm512_set1_epi8(-128), mask, codes)
}

/// Products of interleaved rows.
#[target_feature(enable = "avx512vbmi2,avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn matmul(w: &[u8], group_bytes: usize, skip: usize, acts: &Acts<'_>, y: &mut [f32]) {
    let n_rows = y.len() / acts.plan.n_tokens;
    for (rows, place) in groups(w, LANES, group_bytes, skip, n_rows) {
        few_tokens!(acts.plan.n_tokens, |N, first| {
            let sums = group::<N>(rows, &Rows::<N>::new(acts, first));
            write(&place, sums, first, y);
        });
    }
}

/// A group of rows.
#[inline(never)]
#[target_feature(enable = "avx512vbmi2,avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn group<const N: usize>(group: &[u8], x: &Rows<'_, N>) -> [__m512; N] {
    let mut acc = [_mm512_setzero_ps(); N];
    let mut at = 0;
    let x = x.as_long_as(x.d[0].len());
    for (i, head) in heads(group).iter().enumerate() {
        // Slower than memory: the hardware would not follow. What is asked for need not exist.
        for line in (0..CODE_BYTES).step_by(64) {
            prefetch::<_MM_HINT_T1, _>(&group[0], at + FAR_BYTES + line);
        }
        prefetch::<_MM_HINT_T1, _>(head, FAR_BYTES);
        prefetch::<_MM_HINT_T1, _>(head, FAR_BYTES + 64);
        let mut isum = [_mm512_setzero_si512(); N];
        for t in 0..N {
            let [s, s_2] = x.s[t][i];
            isum[t] = _mm512_set1_epi32(-128 * (i32::from(s) + i32::from(s_2)));
        }
        for g in 0..WORDS {
            let mask = mask(head, g);
            let codes = expand(group, at, mask);
            at += mask.count_ones() as usize;
            for t in 0..N {
                let q = spread(&x.q[t][i].as_chunks::<4>().0[g]);
                isum[t] = _mm512_dpbusd_epi32(isum[t], codes, q);
            }
        }
        let scales = head[8 * WORDS..].first_chunk().expect("a half of each row");
        let d = _mm512_cvtph_ps(load_32(scales));
        for t in 0..N {
            let d = _mm512_mul_ps(d, _mm512_set1_ps(x.d[t][i]));
            acc[t] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(isum[t]), acc[t]);
        }
    }
    acc
}

/// Packs a group of rows; whether at most half of its codes are not zero. Else `out` holds anything.
#[target_feature(enable = "avx512vbmi2,avx512bw,avx2,popcnt")]
pub(super) fn interleave(rows: &[u8], out: &mut [u8]) -> bool {
    let rows = as_blocks::<BlockQ8_0>(rows);
    let n = rows.len() / LANES;
    let (codes, heads) = out.split_at_mut(n * CODE_BYTES);
    let (mut native, mut column) = ([0; COLUMN_BYTES], [0; COLUMN_BYTES]);
    let mut end = 0;
    for (b, head) in heads.as_chunks_mut::<HEAD_BYTES>().0.iter_mut().enumerate() {
        for (r, block) in as_blocks_mut(&mut native).iter_mut().enumerate() {
            *block = rows[r * n + b];
        }
        reorder::interleave::<LANES>(Parts::of(GgmlType::Q8_0), &native, &mut column);
        let (words, scales) = column.split_at(64 * WORDS);
        let (masks, places) = head.split_at_mut(8 * WORDS);
        places.copy_from_slice(scales);
        for (word, mask) in words.as_chunks().0.iter().zip(masks.as_chunks_mut().0) {
            let word = load(word);
            let is_kept = _mm512_test_epi8_mask(word, word);
            let plus_128 = _mm512_xor_si512(word, _mm512_set1_epi8(-128));
            let mut kept = [0; 64];
            store(&mut kept, _mm512_maskz_compress_epi8(is_kept, plus_128));
            let n_kept = is_kept.count_ones() as usize;
            let Some(codes) = codes.get_mut(end..end + n_kept) else { return false };
            codes.copy_from_slice(&kept[..n_kept]);
            *mask = is_kept.to_le_bytes();
            end += n_kept;
        }
    }
    codes[end..].fill(0);
    true
}

/// The native rows of a group.
#[target_feature(enable = "avx512vbmi2,avx512bw,avx2,popcnt")]
pub(super) fn restore(group: &[u8], out: &mut [u8]) {
    let out = as_blocks_mut::<BlockQ8_0>(out);
    let n = out.len() / LANES;
    let (mut native, mut column) = ([0; COLUMN_BYTES], [0; COLUMN_BYTES]);
    let mut at = 0;
    for (b, head) in heads(group).iter().enumerate() {
        let (words, scales) = column.split_at_mut(64 * WORDS);
        scales.copy_from_slice(&head[8 * WORDS..]);
        for (g, word) in words.as_chunks_mut().0.iter_mut().enumerate() {
            let mask = mask(head, g);
            let codes = expand(group, at, mask);
            store(word, _mm512_xor_si512(codes, _mm512_set1_epi8(-128)));
            at += mask.count_ones() as usize;
        }
        reorder::restore::<LANES>(Parts::of(GgmlType::Q8_0), &column, &mut native);
        for (r, block) in as_blocks(&native).iter().enumerate() {
            out[r * n + b] = *block;
        }
    }
}
