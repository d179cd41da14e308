//! Blocks of 32 of whose codes at most two of every four neighbours are not zero ("2:4"), without the
//! zeros: a form for decoding, as pruning makes such weights.
//!
//! A packed block is its scale and words of four bytes: the places of its 16 kept codes among their
//! four, two bits each, then the codes. That is 5.5 bits per weight of Q8_0 and 3.5 of Q4_0, from
//! which the block comes back bit for bit. Products shuffle the activations to the codes: what they
//! leave out is zero, so sums are the same integers, and results have the same bits.
//!
//! Groups of packed rows are interleaved as [`crate::interleave`] says.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no other level interleaves"))]

use super::{Block32, BlockQ4_0, BlockQ8_0, F16, as_blocks};

/// Codes that are kept of a block.
const KEPT: usize = 16;

/// The most words of a packed block.
const WORDS_MAX: usize = 1 + KEPT / 4;

/// A type with such a form.
pub(crate) trait TwoOfFour: Block32 {
    /// Whether codes are nibbles, plus 8; else they are bytes.
    const NIBBLES: bool;
    /// Words of a packed block: the places, then the codes.
    const WORDS: usize = if Self::NIBBLES { 1 + KEPT / 8 } else { WORDS_MAX };
    /// Bytes of a packed block: its words and its scale.
    const BYTES: usize = 4 * Self::WORDS + 2;

    /// The scale.
    fn d(&self) -> F16;
}

impl TwoOfFour for BlockQ8_0 {
    const NIBBLES: bool = false;

    fn d(&self) -> F16 {
        self.d
    }
}

impl TwoOfFour for BlockQ4_0 {
    const NIBBLES: bool = true;

    fn d(&self) -> F16 {
        self.d
    }
}

/// The places of the two codes that are kept of four, by the bits of those that are not zero; 4 where
/// there are more than two.
const PLACES: [[u8; 2]; 16] = {
    let mut places = [[4; 2]; 16];
    let mut first = 0;
    while first < 4 {
        let mut second = first + 1;
        while second < 4 {
            // Later pairs hold one bit or none as well: any of them will do.
            places[0] = [first, second];
            places[1 << first] = [first, second];
            places[1 << second] = [first, second];
            places[1 << first | 1 << second] = [first, second];
            second += 1;
        }
        first += 1;
    }
    places
};

/// The words of a packed block, of which the type has [`TwoOfFour::WORDS`]: bits `2k` and `2k + 1` of
/// byte `i` of the first are the place of code `4k + i`. Codes `4k..4k + 4` are in word `k` behind it;
/// of nibbles words have those of `k` and, in their high halves, of `k + 2`. `None` if more than two
/// of four codes are not zero.
#[inline(always)]
fn pack<B: TwoOfFour>(block: &B) -> Option<[[u8; 4]; WORDS_MAX]> {
    let codes = block.unpack().codes;
    let mut words = [[0; 4]; WORDS_MAX];
    for (g, four) in codes.as_chunks::<4>().0.iter().enumerate() {
        let bits = (0..4).fold(0, |bits, i| bits | usize::from(four[i] != 0) << i);
        for (i, place) in PLACES[bits].into_iter().enumerate() {
            if place == 4 {
                return None;
            }
            let (k, byte) = (g / 2, g % 2 * 2 + i);
            let code = four[usize::from(place)];
            words[0][byte] |= place << (2 * k);
            match B::NIBBLES {
                true => words[1 + k % 2][byte] |= ((code + 8) as u8) << (k / 2 * 4),
                false => words[1 + k][byte] = code as u8,
            }
        }
    }
    Some(words)
}

/// Packs and interleaves a group of `LANES` rows; whether they can be. Else `out` holds anything.
pub(crate) fn interleave<B: TwoOfFour, const LANES: usize>(rows: &[u8], out: &mut [u8]) -> bool {
    let rows = as_blocks::<B>(rows);
    let n = rows.len() / LANES;
    for (b, column) in out.chunks_exact_mut(LANES * B::BYTES).enumerate() {
        let (words, scales) = column.split_at_mut(LANES * 4 * B::WORDS);
        let (words, _) = words.as_chunks_mut();
        for r in 0..LANES {
            let block = &rows[r * n + b];
            let Some(packed) = pack(block) else { return false };
            for (w, word) in packed[..B::WORDS].iter().enumerate() {
                words[w * LANES + r] = *word;
            }
            scales[2 * r..2 * r + 2].copy_from_slice(&block.d().0);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of a packed block in their places.
    fn unpack<B: TwoOfFour>(words: &[[u8; 4]; WORDS_MAX]) -> [i8; 32] {
        let mut codes = [0; 32];
        for i in 0..KEPT {
            let (k, byte) = (i / 4, i % 4);
            let code = match B::NIBBLES {
                true => (words[1 + k % 2][byte] >> (k / 2 * 4) & 15) as i8 - 8,
                false => words[1 + k][byte] as i8,
            };
            let place = words[0][byte] >> (2 * k) & 3;
            codes[i / 2 * 4 + usize::from(place)] |= code;
        }
        codes
    }

    #[test]
    fn places_are_two_different_ones_of_those_that_are_not_zero() {
        for (bits, places) in PLACES.into_iter().enumerate() {
            if bits.count_ones() > 2 {
                assert_eq!(places, [4; 2]);
                continue;
            }
            let [a, b] = places;
            assert!(a < b && b < 4, "{bits:04b}");
            assert_eq!(bits & !(1 << a | 1 << b), 0, "{bits:04b}");
        }
    }

    #[test]
    fn blocks_come_back_from_their_packed_form() {
        // Each pair of places, none and one of them, in each group of four.
        for (shift, bits) in (0..8).flat_map(|shift| (0..16).map(move |bits| (shift, bits))) {
            let mut qs = [0; 32];
            for g in 0..8 {
                for i in (0..4).filter(|i| (bits + shift * g) >> i & 1 == 1) {
                    qs[4 * g + i] = [-128, 127, -8, 7, 1][(g + i) % 5];
                }
            }
            let most = qs.as_chunks::<4>().0.iter().map(|q| q.iter().filter(|q| **q != 0).count());
            let fits = most.max().is_some_and(|most| most <= 2);
            let q8_0 = BlockQ8_0 { d: F16([1, 2]), qs };
            let packed = pack(&q8_0);
            assert_eq!(packed.is_some(), fits);
            assert!(packed.is_none_or(|words| unpack::<BlockQ8_0>(&words) == qs));
            let codes = qs.map(|q| q.clamp(-8, 7));
            let nibbles = codes.map(|code| (code + 8) as u8);
            let q4_0 = BlockQ4_0 { d: F16([1, 2]), qs: crate::block::pack_nibbles(&nibbles) };
            let packed = pack(&q4_0);
            assert_eq!(packed.is_some(), fits);
            assert!(packed.is_none_or(|words| unpack::<BlockQ4_0>(&words) == codes));
        }
    }
}
