//! Interleaved rows: the bytes of native blocks in the order in which decoding streams them best.
//!
//! `lanes` rows (8 or 16, the 32-bit lanes of a level's registers) make a group. A group is its
//! rows' blocks, column by column of blocks; of the `lanes` blocks of one column
//! - 32-bit word `w` of every row lies side by side: one load gives the word of all rows, each lane
//!   keeps its own row's sums, and nothing is ever added across lanes;
//! - the bytes that do not fill a word (a scale of two bytes, say) follow, row after row.
//!
//! ```text
//! word 0 of rows 0..lanes | word 1 of rows 0..lanes | ... | rest of row 0 | rest of row 1 | ...
//! ```
//!
//! Interleaving is a permutation of bytes with an inverse, and products have the same bits. The one change within a word: where it holds one or two bits each of more than four
//! codes, they go to the bytes of those codes, see [`swap_bits`] and [`swap_pairs`].
//!
//! Blocks of codebook types are written out first, see [`crate::block::expanded`]: theirs are more
//! bytes, and what comes back are the written-out blocks.
//!
//! Forms that leave zeros out keep the order, see [`crate::block::two_of_four`] and the level of AVX-512
//! VBMI2. Not all rows have one.
//!
//! Cost: some bytes per cycle, once per weight.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no other level interleaves"))]

use gguf_rs_lite::GgmlType;

/// Parts that a type's blocks are taken apart into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Bytes of a block.
    pub block: usize,
    /// Whole words of a block.
    pub words: usize,
    /// Byte of a block that they begin at.
    pub words_at: usize,
    /// Bytes of a block outside of them, and where they begin.
    pub rest: usize,
    pub rest_at: usize,
    /// The bits of each code in words of several: 0, 1 or 2.
    bits: u32,
    /// How many words those are, and the first of them.
    swapped: usize,
    swapped_at: usize,
}

impl Parts {
    /// The parts of a block of `4 * words` bytes.
    pub const fn of_words(words: usize) -> Parts {
        Parts {
            block: 4 * words,
            words,
            words_at: 0,
            rest: 0,
            rest_at: 0,
            bits: 0,
            swapped: 0,
            swapped_at: 0,
        }
    }

    /// The parts of a type's own blocks.
    pub fn of(ty: GgmlType) -> Parts {
        let block = ty.block_bytes();
        let (words, rest) = (block / 4, block % 4);
        // Super-blocks end with their scale, others begin with it.
        let (words_at, rest_at) = if ty.block_len() < 256 { (rest, 0) } else { (0, 4 * words) };
        let (bits, swapped, swapped_at) = match ty {
            GgmlType::Q5_0 => (1, 1, 0),
            // Two halves fill the word before.
            GgmlType::Q5_1 => (1, 1, 1),
            GgmlType::Q1_0 => (1, 4, 0),
            GgmlType::Q2_0 => (2, 4, 0),
            _ => (0, 0, 0),
        };
        Parts { block, words, words_at, rest, rest_at, bits, swapped, swapped_at }
    }

    /// Whether [`Parts::swap`] does anything.
    #[inline(always)]
    pub fn is_swapped(self) -> bool {
        self.swapped > 0
    }

    /// Moves bits within the words that hold those of more than four codes, one of every `stride`
    /// words of `words`; its own inverse.
    #[inline(always)]
    pub fn swap(self, words: &mut [u8], stride: usize) {
        let (words, _) = words.as_chunks_mut();
        for word in words.iter_mut().step_by(stride).skip(self.swapped_at).take(self.swapped) {
            *word = if self.bits == 1 { swap_bits(*word) } else { swap_pairs(*word) };
        }
    }
}

/// Interleaves a group of `LANES` contiguous rows; what every level's own way must do.
#[cfg(test)]
pub(crate) fn interleave<const LANES: usize>(parts: Parts, rows: &[u8], out: &mut [u8]) {
    let row_bytes = rows.len() / LANES;
    for (b, out) in out.chunks_exact_mut(LANES * parts.block).enumerate() {
        let (words, rests) = out.split_at_mut(LANES * 4 * parts.words);
        for r in 0..LANES {
            let block = &rows[r * row_bytes + b * parts.block..][..parts.block];
            let (from, _) = block[parts.words_at..][..4 * parts.words].as_chunks::<4>();
            let (to, _) = words[4 * r..].as_chunks_mut::<4>();
            for (to, from) in to.iter_mut().step_by(LANES).zip(from) {
                *to = *from;
            }
            parts.swap(&mut words[4 * r..], LANES);
            let rest = &block[parts.rest_at..][..parts.rest];
            rests[r * parts.rest..][..parts.rest].copy_from_slice(rest);
        }
    }
}

/// Moves bit `4g + k`, which belongs to element `4g + k`, to byte `k`, where the other bits of that
/// element are, or would be: to bit [`FIFTH`]`[g]` of it. The numbers of the bits have their digits
/// 0 and 3 exchanged, and 1 and 4; so it is its own inverse.
pub(crate) fn swap_bits(word: [u8; 4]) -> [u8; 4] {
    exchange(word, [((1 << 3) - 1, 0x00aa_00aa), ((1 << 4) - (1 << 1), 0x0000_cccc)])
}

/// Moves the bits of element `4g + k` of 16, from bit `2 * (4g + k)` on, to byte `k`, from bit `2g`
/// on. The numbers of the bits have their digits 1 and 3 exchanged, and 2 and 4.
pub(crate) fn swap_pairs(word: [u8; 4]) -> [u8; 4] {
    exchange(word, [((1 << 3) - (1 << 1), 0x00cc_00cc), ((1 << 4) - (1 << 2), 0x0000_f0f0)])
}

/// Exchanges the bits of a mask with those so far above.
fn exchange(word: [u8; 4], steps: [(u32, u32); 2]) -> [u8; 4] {
    let mut x = u32::from_le_bytes(word);
    for (distance, lower) in steps {
        let moved = (x >> distance ^ x) & lower;
        x ^= moved | moved << distance;
    }
    x.to_le_bytes()
}

/// Shifts by which [`swap_bits`] puts the fifth bits of elements `4g..4g + 4`.
pub(crate) const FIFTH: [i32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The outputs that belong to the lanes of a group.
pub(crate) struct LaneOutputs {
    /// Lanes before the first wanted row.
    skip: usize,
    /// Outputs `first..first + n` of the `n_rows` of each token.
    first: usize,
    n: usize,
    n_rows: usize,
}

impl LaneOutputs {
    /// Copies the wanted lanes of a token to `y`, `[tokens][n_rows]`.
    #[inline]
    pub fn put<const LANES: usize>(&self, lanes: &[f32; LANES], token: usize, y: &mut [f32]) {
        let y = &mut y[token * self.n_rows + self.first..][..self.n];
        match y.first_chunk_mut() {
            // All of them: no call of a copy.
            Some(all) => *all = *lanes,
            None => y.copy_from_slice(&lanes[self.skip..][..self.n]),
        }
    }
}

/// The groups of `lanes` rows that `w` holds, of which rows `skip..skip + n_rows` are wanted.
pub(crate) fn groups(
    w: &[u8],
    lanes: usize,
    group_bytes: usize,
    skip: usize,
    n_rows: usize,
) -> impl Iterator<Item = (&[u8], LaneOutputs)> {
    w.chunks_exact(group_bytes).enumerate().map(move |(g, group)| {
        let (start, end) = ((g * lanes).max(skip), ((g + 1) * lanes).min(skip + n_rows));
        let (lane, first) = (start - g * lanes, start - skip);
        (group, LaneOutputs { skip: lane, first, n: end - start, n_rows })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KernelTable, Level};

    #[test]
    fn pairs_of_bits_go_to_their_bytes() {
        for (g, k) in (0..4).flat_map(|g| (0..4).map(move |k| (g, k))) {
            for code in 1..4u32 {
                let moved = swap_pairs((code << (2 * (4 * g + k))).to_le_bytes());
                let mut expected = [0; 4];
                expected[k] = (code << (2 * g)) as u8;
                assert_eq!(moved, expected, "group {g} element {k}");
                assert_eq!(swap_pairs(moved), (code << (2 * (4 * g + k))).to_le_bytes());
            }
        }
    }

    #[test]
    fn fifth_bits_go_to_their_bytes() {
        for (g, at) in FIFTH.into_iter().enumerate() {
            for k in 0..4 {
                let bit = 1u32 << (4 * g + k);
                let moved = swap_bits(bit.to_le_bytes());
                let mut expected = [0; 4];
                expected[k] = 1 << at;
                assert_eq!(moved, expected, "group {g} element {k}");
                assert_eq!(swap_bits(moved), bit.to_le_bytes());
            }
        }
    }

    #[test]
    fn every_level_has_this_order_and_the_way_back() {
        for table in Level::ALL.iter().map(|&level| KernelTable::at_most(level)) {
            for kernels in table.types {
                let Some(lanes) = kernels.lanes() else { continue };
                let (ty, row_bytes) = (kernels.ty, 3 * kernels.ty.block_bytes());
                if kernels.interleaved_row_bytes(row_bytes) != row_bytes {
                    continue; // written out, see `block::expanded`
                }
                let rows: Vec<u8> =
                    (0..lanes * row_bytes).map(|i| (i * 37 + i / 251) as u8).collect();
                let zeros = vec![0; rows.len()];
                let (mut want, mut group, mut back) = (zeros.clone(), zeros.clone(), zeros);
                match lanes {
                    8 => interleave::<8>(Parts::of(ty), &rows, &mut want),
                    16 => interleave::<16>(Parts::of(ty), &rows, &mut want),
                    _ => panic!("groups have 8 or 16 rows"),
                }
                assert!(kernels.interleave(&rows, row_bytes, &mut group));
                assert!(group == want, "{ty} at level {}", table.level());
                kernels.restore(&group, row_bytes, &mut back);
                assert!(back == rows, "{ty} at level {}", table.level());
            }
        }
    }
}
