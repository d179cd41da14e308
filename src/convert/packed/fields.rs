//! Fields of some bits in words of 32.

/// Codes as one little-endian stream of bits through words that lie some places apart.
#[derive(Clone, Copy)]
pub(super) struct Fields<'w> {
    pub words: &'w [u32],
    /// Place of the first word.
    pub first: usize,
    /// Places from one word to the next.
    pub step: usize,
    /// Bits of a field, at most 8.
    pub bits: usize,
}

impl Fields<'_> {
    /// Words that so many fields take.
    pub fn words_of(n: usize, bits: usize) -> usize {
        (n * bits).div_ceil(32)
    }

    /// Field `i`.
    pub fn get(&self, i: usize) -> u8 {
        let bit = i * self.bits;
        let word = |n: usize| u64::from(self.words[self.first + n * self.step]);
        let (n, shift) = (bit / 32, bit % 32);
        let upper = if shift + self.bits > 32 { word(n + 1) << 32 } else { 0 };
        ((word(n) | upper) >> shift) as u8 & mask(self.bits)
    }
}

/// The largest field.
pub(super) fn mask(bits: usize) -> u8 {
    (u16::MAX >> (16 - bits)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cross_words() {
        let words = [0, 0x7654_3210, 0, 0xfedc_ba98];
        let fields = |bits| Fields { words: &words, first: 1, step: 2, bits };
        assert_eq!([0, 7, 8, 15].map(|i| fields(4).get(i)), [0, 7, 8, 15]);
        assert_eq!([0, 3, 7].map(|i| fields(8).get(i)), [0x10, 0x76, 0xfe]);
        let bits = 0xfedc_ba98_7654_3210_u64;
        for i in 0..21 {
            assert_eq!(u64::from(fields(3).get(i)), bits >> (3 * i) & 7, "{i}");
        }
        assert_eq!((Fields::words_of(32, 3), mask(8), mask(3)), (3, 255, 7));
    }
}
