//! NEON with matrix products: `smmla` adds the products of two rows of eight bytes with two others
//! to the four i32 of a register. All else is [`super::neon`]'s, decoding [`super::neon_dot`]'s.
//!
//! Cores of this level have three loads to four vector operations per cycle. A tile of four rows by
//! eight tokens needs nearly as many loads as operations where a super-block's scales are applied;
//! six rows, whose sums still fit the registers, need seven to nine.

use super::neon::dot::{Dot, tiles};
use super::neon::level;
use super::neon::panels::{self, PanelBlock, REGISTERS_MAX, Rows32, Rows256, Sums};
use super::neon::vector::*;
use super::neon_dot::Sdot;
use crate::isa::detect::{Level, token};
use crate::table::KernelTable;
use std::arch::asm;

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: token::NeonI8mm) -> &'static KernelTable {
    &TABLE
}

level!(Level::NeonI8mm, super::neon_dot::TYPES, Smmla, "dotprod,i8mm");

/// FEAT_I8MM.
struct Smmla;

impl Dot for Smmla {
    const AV: usize = 4;
    const PARTS: usize = 1;

    #[inline(always)]
    fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        Sdot::dot(sum, a, b)
    }

    /// A register is eight codes of two rows.
    #[inline(always)]
    fn order_rows(codes: [[int8x16_t; 2]; 4]) -> [int8x16_t; 8] {
        let [a, b, c, d] = codes;
        let pairs = |half: usize| [zip_halves(a[half], b[half]), zip_halves(c[half], d[half])];
        let ([[ab, ab_2], [cd, cd_2]], [[ab_3, ab_4], [cd_3, cd_4]]) = (pairs(0), pairs(1));
        [ab, cd, ab_2, cd_2, ab_3, cd_3, ab_4, cd_4]
    }

    /// A register is eight codes of two tokens.
    #[inline(always)]
    fn order_panel(words: [int8x16_t; 4]) -> [int8x16_t; 4] {
        let ([a, b], [c, d]) = (zip_words(words[0], words[1]), zip_words(words[2], words[3]));
        [a, b, c, d]
    }

    #[inline(always)]
    fn place(quad: usize, half: usize, i: usize) -> usize {
        8 * half + i / 2 * 4 + 2 * quad + i % 2
    }

    #[inline(always)]
    fn by_row(x: float32x4_t) -> [float32x4_t; 4] {
        let (low, high, none) = (vzip1q_f32(x, x), vzip2q_f32(x, x), vdupq_n_f32(0.0));
        [low, high, none, none]
    }

    #[inline(always)]
    fn by_token(x: [float32x4_t; 2]) -> [float32x4_t; 4] {
        let ([a, b], [c, d]) = (zip_halves_f32(x[0], x[0]), zip_halves_f32(x[1], x[1]));
        [a, b, c, d]
    }

    #[inline(always)]
    fn tokens(sums: &Sums) -> [float32x4_t; 8] {
        let pair = |j: usize| {
            // Rows 0, 0, 1, 1 and 2, 2, 3, 3 of tokens 2j and 2j + 1 by turns.
            let (low, high) = (load_f32(&sums[j]), load_f32(&sums[4 + j]));
            [vuzp1q_f32(low, high), vuzp2q_f32(low, high)]
        };
        let ([a, b], [c, d], [e, f], [g, h]) = (pair(0), pair(1), pair(2), pair(3));
        [a, b, c, d, e, f, g, h]
    }

    #[inline(always)]
    fn isums<
        const PART: usize,
        const FIRST: usize,
        const N: usize,
        const FROM: usize,
        const TO: usize,
        const SMALL: bool,
    >(
        rows: [&[[i8; 16]; 8]; 2],
        panel: &[[i8; 16]; 16],
        start: &[[i32; 4]; REGISTERS_MAX],
    ) -> [int32x4_t; N] {
        let mut sums = std::array::from_fn(|v| load_s32(&start[v]));
        for eight in 2 * FROM..2 * TO {
            for j in 0..Smmla::AV {
                let q = load(&panel[4 * eight + j]);
                for pair in 0..N / Smmla::AV {
                    let i = FIRST + pair;
                    let w = load(&rows[i / 2][2 * eight + i % 2]);
                    let sum = &mut sums[Smmla::AV * pair + j];
                    // SAFETY: entries of this level call this.
                    *sum = unsafe { smmla(*sum, w, q) };
                }
            }
        }
        sums
    }

    /// Two tiles of six rows for three of four; but two scales per 32 codes need more registers than
    /// that leaves.
    #[inline(always)]
    fn tiles_256<const GROUP: usize, const MIN: bool, const SMALL: bool>(
        n: usize,
        rows: &[Rows256],
        panel: &[PanelBlock],
        sums: &mut [Sums],
    ) {
        let in_threes = if GROUP == 32 { sums.len() / 3 * 3 } else { 0 };
        let ((rows, rest_rows), (sums, rest_sums)) =
            (rows.split_at(in_threes * n), sums.split_at_mut(in_threes));
        let (sums, _) = sums.as_flattened_mut().as_chunks_mut();
        for (rows, sums) in rows.chunks_exact(3 * n).zip(sums.chunks_exact_mut(2)) {
            // SAFETY: as an entry's: see the head of `neon`.
            unsafe {
                six_rows::<0, MIN>(&rows[..2 * n], panel, &mut sums[0]);
                six_rows::<1, MIN>(&rows[n..], panel, &mut sums[1]);
            }
        }
        panels::each(Smmla::tile_256::<GROUP, MIN, SMALL>, n, rest_rows, panel, rest_sums);
    }

    tiles!(Smmla, "dotprod,i8mm");
}

/// Of two times four rows of super-blocks with a scale per 32 codes, the six from pair `FIRST` on by
/// a panel: `sums += w . q`.
#[inline(never)]
#[target_feature(enable = "dotprod,i8mm")]
fn six_rows<const FIRST: usize, const MIN: bool>(
    rows: &[Rows256],
    panel: &[PanelBlock],
    sums: &mut [[f32; 4]; REGISTERS_MAX],
) {
    let (a, b) = rows.split_at(rows.len() / 2);
    for ((a, b), panel) in a.iter().zip(b).zip(panel.as_chunks::<8>().0) {
        panels::part_256::<Smmla, 0, FIRST, REGISTERS_MAX, 32, MIN, false>([a, b], panel, sums);
    }
}

/// `sum + a b^T` of two by eight bytes each. The intrinsic is not stable.
#[inline]
#[target_feature(enable = "i8mm")]
fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers; the function has the feature.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(nomem, nostack, preserves_flags)
        );
    }
    sum
}
