//! How levels with AVX2's registers multiply bytes: the one step in which they differ.
//!
//! Kernels that gain by another step are generic over it. It is inlined into them, so what it needs
//! of the CPU beyond AVX2 is proved by the token of the level whose table they are in.

use crate::act::PanelOrder;
use std::arch::x86_64::*;

/// A level's dot product of bytes.
pub(in crate::isa) trait Dot {
    /// Whether four products of any bytes are added to an i32 at once.
    const FOUR: bool;
    /// The order of the panels of its kernels.
    const ORDER: PanelOrder;

    /// `sum + unsigned . signed` of each four bytes. Unless [`Dot::FOUR`] both first and both last
    /// products have to fit an i16.
    fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i;
}

/// AVX2's three instructions: `vpmaddubsw`, `vpmaddwd`, `vpaddd`.
pub(in crate::isa) struct MulAdd;

impl Dot for MulAdd {
    const FOUR: bool = false;
    const ORDER: PanelOrder = PanelOrder::ByHalves;

    #[inline(always)]
    fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: tables with this step are of levels with AVX2.
        unsafe { mul_add(sum, unsigned, signed) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn mul_add(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(unsigned, signed);
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}
