//! Codebook blocks with their codes written out, in four bits each: a form for decoding.
//!
//! No codebook type has more than 16 different codes, points of a lattice though they are. Looked up
//! once and kept as nibbles, they are unpacked by a shuffle ever after, in place of a table access
//! per four or eight weights; products have the same bits. Costs memory: 4.4 to 4.6 bits per weight
//! where the file has 1.6 to 3.4.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no other level interleaves"))]

use super::*;
use std::marker::PhantomData;

/// A type whose codes are points of a codebook.
pub(crate) trait Codebook: Block256 {
    /// All magnitudes of codes, the largest last. Shifted right by `SHIFT` they are different, and below 8.
    const MAGNITUDES: &'static [u8];
    const SHIFT: u32;

    /// The codes of the 16 nibbles: [`nibble`]s of a code.
    const VALUES: [i8; 16] = {
        let mut values = [0; 16];
        let mut i = 0;
        while i < Self::MAGNITUDES.len() {
            let magnitude = Self::MAGNITUDES[i];
            let index = (magnitude >> Self::SHIFT) as usize;
            assert!(index < 8 && values[index] == 0);
            values[index] = magnitude as i8;
            values[index + 8] = -(magnitude as i8);
            i += 1;
        }
        values
    };
}

macro_rules! codebooks {
    ($($block:ident: $magnitudes:expr, $shift:literal;)*) => {$(
        impl Codebook for $block {
            const MAGNITUDES: &'static [u8] = &$magnitudes;
            const SHIFT: u32 = $shift;
        }
    )*};
}

codebooks! {
    BlockIQ1S: [1, 7, 9], 1;
    BlockIQ1M: [1, 7, 9], 1;
    BlockIQ2XXS: codebook::IQ2_MAGNITUDES, 4;
    BlockIQ2XS: codebook::IQ2_MAGNITUDES, 4;
    BlockIQ2S: codebook::IQ2_MAGNITUDES, 4;
    BlockIQ3XXS: codebook::IQ3_XXS_MAGNITUDES, 3;
    BlockIQ3S: codebook::IQ3_S_MAGNITUDES, 1;
}

/// A super-block of `B` with `S` scales, one per `256 / S` elements.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Expanded<B, const S: usize> {
    /// Scales, none of them negative.
    pub scales: [u8; S],
    /// Scale of the scales, a little-endian f32.
    pub d: [u8; 4],
    /// Nibbles of each 32 elements: low ones first, then high ones.
    pub qs: [[u8; 16]; 8],
    pub of: PhantomData<B>,
}

pub(crate) type ExpandedIQ1S = Expanded<BlockIQ1S, 8>;
pub(crate) type ExpandedIQ1M = Expanded<BlockIQ1M, 16>;
pub(crate) type ExpandedIQ2XXS = Expanded<BlockIQ2XXS, 8>;
pub(crate) type ExpandedIQ2XS = Expanded<BlockIQ2XS, 16>;
pub(crate) type ExpandedIQ2S = Expanded<BlockIQ2S, 16>;
pub(crate) type ExpandedIQ3XXS = Expanded<BlockIQ3XXS, 8>;
pub(crate) type ExpandedIQ3S = Expanded<BlockIQ3S, 8>;

impl<B: Codebook, const S: usize> Expanded<B, S> {
    /// The block written out; what every level's own way must do.
    #[cfg(test)]
    pub fn new(block: &B) -> Self {
        let Unpacked256 { codes, scales, d, .. } = block.unpack();
        let nibble = |code: i8| code.unsigned_abs() >> B::SHIFT | u8::from(code < 0) << 3;
        Expanded {
            scales: std::array::from_fn(|i| scales[i * (16 / S)] as u8),
            d: d.to_le_bytes(),
            qs: std::array::from_fn(|j| {
                pack_nibbles(&std::array::from_fn(|i| nibble(codes[32 * j + i])))
            }),
            of: PhantomData,
        }
    }

    /// Number that is added to the codes of the nibbles so that none is negative: twice that is above all.
    pub const UNSIGNED_ZERO: u8 = if B::MAGNITUDES[B::MAGNITUDES.len() - 1] < 16 { 16 } else { 64 };

    /// The codes of the nibbles, plus that.
    pub const UNSIGNED: [u8; 16] = {
        let mut codes = [0; 16];
        let mut i = 0;
        while i < 16 {
            codes[i] = (B::VALUES[i] + Self::UNSIGNED_ZERO as i8) as u8;
            i += 1;
        }
        codes
    };

    /// Scale of the scales.
    #[inline]
    pub fn d(&self) -> f32 {
        f32::from_le_bytes(self.d)
    }
}

impl<B: Codebook, const S: usize> Block for Expanded<B, S> {
    const TY: GgmlType = B::TY;
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        self.unpack().dequantize(out, Self::HAS_MIN);
    }
}

impl<B: Codebook, const S: usize> Block256 for Expanded<B, S> {
    const GROUP: usize = B::GROUP;
    const HAS_MIN: bool = false;

    fn unpack(&self) -> Unpacked256 {
        const { assert!(S * B::GROUP == 256 && !B::HAS_MIN) }
        let mut codes = [0; 256];
        for (codes, qs) in codes.as_chunks_mut().0.iter_mut().zip(&self.qs) {
            *codes = nibbles(qs).map(|nibble| B::VALUES[usize::from(nibble)]);
        }
        let scales = std::array::from_fn(|i| self.scales[i / (16 / S)].into());
        Unpacked256::without_min(codes, scales, self.d())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KernelTable, Level};

    /// NaNs are one.
    fn bits(y: f32) -> u32 {
        if y.is_nan() { f32::NAN.to_bits() } else { y.to_bits() }
    }

    /// A group at every level: the blocks that [`Expanded::new`] makes, with the values of the type.
    fn check<B: Codebook, const S: usize>() {
        for table in Level::ALL.iter().map(|&level| KernelTable::at_most(level)) {
            let kernels = table.types(B::TY).expect("every level has every type");
            let Some(lanes) = kernels.lanes() else { continue };
            let row_bytes = 3 * size_of::<B>();
            let rows: Vec<u8> =
                (0..lanes * row_bytes).map(|i| (i * 167 + i / 13 + i / 251) as u8).collect();
            let mut group = vec![0; lanes * kernels.interleaved_row_bytes(row_bytes)];
            let mut back = group.clone();
            assert!(kernels.interleave(&rows, row_bytes, &mut group));
            kernels.restore(&group, row_bytes, &mut back);
            let (mut values, mut want) = ([0.0; 256], [0.0; 256]);
            for (from, got) in as_blocks::<B>(&rows).iter().zip(as_blocks::<Expanded<B, S>>(&back))
            {
                let expected = Expanded::<B, S>::new(from);
                assert_eq!(got.qs, expected.qs, "{} at level {}", B::TY, table.level());
                assert_eq!(got.scales, expected.scales, "{}", B::TY);
                assert_eq!(bits(got.d()), bits(expected.d()), "{}", B::TY);
                got.dequantize(&mut values);
                from.dequantize(&mut want);
                assert_eq!(values.map(bits), want.map(bits), "{}", B::TY);
            }
        }
    }

    #[test]
    fn every_level_writes_codebook_types_out_alike() {
        check::<BlockIQ1S, 8>();
        check::<BlockIQ1M, 16>();
        check::<BlockIQ2XXS, 8>();
        check::<BlockIQ2XS, 16>();
        check::<BlockIQ2S, 16>();
        check::<BlockIQ3XXS, 8>();
        check::<BlockIQ3S, 8>();
    }
}
