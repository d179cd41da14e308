//! NEON with dot products: `sdot` adds four products of bytes to each i32 of a register. All else is
//! [`super::neon`]'s.

use super::neon::dot::{Dot, tiles};
use super::neon::level;
use super::neon::panels::{self, PanelBlock, REGISTERS_MAX, Rows32, Rows256, Sums};
use super::neon::vector::*;
use crate::isa::detect::{Level, token};
use crate::table::KernelTable;
use std::arch::asm;

/// The table, for those who can show that the CPU has the feature.
pub(crate) fn table(_: token::NeonDot) -> &'static KernelTable {
    &TABLE
}

level!(Level::NeonDot, super::neon::TYPES, Sdot, "dotprod");

/// FEAT_DotProd: every function that is reached only from tables of the feature.
pub(in crate::isa) struct Sdot;

impl Dot for Sdot {
    const AV: usize = 2;
    const PARTS: usize = 1;

    #[inline(always)]
    fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: entries of this level call this, and those of levels above: see `neon`.
        unsafe { sdot(sum, a, b) }
    }

    /// A register is four codes of four tokens, as in the panel.
    #[inline(always)]
    fn order_panel(words: [int8x16_t; 4]) -> [int8x16_t; 4] {
        words
    }

    #[inline(always)]
    fn place(quad: usize, half: usize, i: usize) -> usize {
        8 * half + 2 * i + quad
    }

    /// Four codes of a row times those of four tokens, at once: no lane is ever added to another.
    #[inline(always)]
    fn isums<
        const PART: usize,
        const FIRST: usize,
        const N: usize,
        const FROM: usize,
        const TO: usize,
        const SMALL: bool,
    >(
        [rows, _]: [&[[i8; 16]; 8]; 2],
        panel: &[[i8; 16]; 16],
        start: &[[i32; 4]; REGISTERS_MAX],
    ) -> [int32x4_t; N] {
        const { assert!(FIRST == 0 && N == 8) }
        let mut sums = std::array::from_fn(|v| load_s32(&start[v]));
        for half in FROM..TO {
            let w = [0, 1, 2, 3].map(|r| load(&rows[4 * half + r]));
            macro_rules! word {
                ($($k:literal)*) => {$(
                    for quad in 0..2 {
                        let q = load(&panel[Sdot::place(quad, half, $k)]);
                        for r in 0..4 {
                            let sum = &mut sums[2 * r + quad];
                            // SAFETY: as in `dot`.
                            *sum = unsafe { sdot_word::<$k>(*sum, q, w[r]) };
                        }
                    }
                )*};
            }
            word!(0 1 2 3);
        }
        sums
    }

    tiles!(Sdot, "dotprod");
}

/// `sum + a . b` of each four bytes. The intrinsic is not stable.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers; the function has the feature.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// [`sdot`] with word `K` of `b` alone.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot_word<const K: u8>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[{k}]",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            k = const K,
            options(nomem, nostack, preserves_flags)
        );
    }
    sum
}
