//! How products of bytes are added up: what sets the levels apart.
//!
//! A tile's sums come as eight registers of four. They start at the bits of the float [`MAGIC`], so
//! that as floats they are `MAGIC` plus the sum, which is below `2^22`: integers become floats by a
//! subtraction, which more pipes can do than conversions, or by a multiply-add that also scales them.

use super::panels::{self, PanelBlock, REGISTERS_MAX, Rows32, Rows256, Sums};
use super::vector::*;

/// `1.5 * 2^23`: a float that has a unit in its last place, with room for either sign.
pub(in crate::isa) const MAGIC: f32 = 12_582_912.0;

/// Sums of products of signed bytes; one operand's are never -128.
pub(in crate::isa) trait Dot {
    /// Registers of a tile that the tokens of a panel take; register `AV * i + j` of a tile holds
    /// the `i`th of its rows and the `j`th of its tokens.
    const AV: usize;

    /// Parts that a tile is computed in, one after the other: register `v` belongs to part
    /// `v % PARTS`.
    const PARTS: usize;

    /// `sum + a . b`, spread over the lanes.
    fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;

    /// 32 codes of four rows to a tile's order. Here as in what follows, unless a level says
    /// otherwise, a register of codes is of one row, and one of sums of one row and four tokens.
    #[inline(always)]
    fn order_rows(codes: [[int8x16_t; 2]; 4]) -> [int8x16_t; 8] {
        let [[a, e], [b, f], [c, g], [d, h]] = codes;
        [a, b, c, d, e, f, g, h]
    }

    /// 16 codes of four tokens to a tile's order: word `k` of the tokens is register `k`. Register
    /// `i` of the result goes to place [`Dot::place`] of a block's.
    fn order_panel(words: [int8x16_t; 4]) -> [int8x16_t; 4];

    /// Where register `i` of [`Dot::order_panel`] of tokens `4 * quad..` and codes `16 * half..`
    /// goes.
    fn place(quad: usize, half: usize, i: usize) -> usize;

    /// A number of each row to all lanes of the row, in `8 / AV` registers.
    #[inline(always)]
    fn by_row(x: float32x4_t) -> [float32x4_t; 4] {
        [
            vdupq_laneq_f32::<0>(x),
            vdupq_laneq_f32::<1>(x),
            vdupq_laneq_f32::<2>(x),
            vdupq_laneq_f32::<3>(x),
        ]
    }

    /// A number of each token to all lanes of the token, in `AV` registers.
    #[inline(always)]
    fn by_token([a, b]: [float32x4_t; 2]) -> [float32x4_t; 4] {
        let none = vdupq_n_f32(0.0);
        [a, b, none, none]
    }

    /// The four rows' sums of each token.
    #[inline(always)]
    fn tokens(sums: &Sums) -> [float32x4_t; 8] {
        let quad = |j: usize| transpose_f32([0, 2, 4, 6].map(|i| load_f32(&sums[i + j])));
        let ([a, b, c, d], [e, f, g, h]) = (quad(0), quad(1));
        [a, b, c, d, e, f, g, h]
    }

    /// Of the registers of a part, `start` plus the products of the blocks' halves `FROM..TO`, summed;
    /// `FIRST` and `N` as [`panels::part_256`] has them, that is 0 and 8 where a level has no other
    /// tiles; `SMALL` as [`super::unpack::Codes32::SMALL`] has it.
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
    ) -> [int32x4_t; N];

    /// [`super::panels::tile_32`] with the level's features.
    fn tile_32<const GROUP: usize, const MIN: bool, const SMALL: bool>(
        rows: &[Rows32],
        panel: &[PanelBlock],
        sums: &mut Sums,
    );

    /// [`super::panels::tile_256`] with the level's features.
    fn tile_256<const GROUP: usize, const MIN: bool, const SMALL: bool>(
        rows: &[Rows256],
        panel: &[PanelBlock],
        sums: &mut Sums,
    );

    /// All rows by a panel, `n` blocks long, in tiles.
    #[inline(always)]
    fn tiles_256<const GROUP: usize, const MIN: bool, const SMALL: bool>(
        n: usize,
        rows: &[Rows256],
        panel: &[PanelBlock],
        sums: &mut [Sums],
    ) {
        panels::each(Self::tile_256::<GROUP, MIN, SMALL>, n, rows, panel, sums);
    }
}

/// Both tiles of [`Dot`], for those who can show the features.
macro_rules! tiles {
    ($dot:ty $(, $feature:literal)?) => {
        fn tile_32<const GROUP: usize, const MIN: bool, const SMALL: bool>(
            rows: &[Rows32],
            panel: &[PanelBlock],
            sums: &mut Sums,
        ) {
            $(#[target_feature(enable = $feature)])?
            #[inline(never)]
            fn tile<const GROUP: usize, const MIN: bool, const SMALL: bool>(
                rows: &[Rows32],
                panel: &[PanelBlock],
                sums: &mut Sums,
            ) {
                panels::tile_32::<$dot, GROUP, MIN, SMALL>(rows, panel, sums)
            }
            #[allow(unused_unsafe, reason = "without features it is safe")]
            // SAFETY: as an entry's: see the head of the level's file.
            unsafe { tile::<GROUP, MIN, SMALL>(rows, panel, sums) }
        }

        fn tile_256<const GROUP: usize, const MIN: bool, const SMALL: bool>(
            rows: &[Rows256],
            panel: &[PanelBlock],
            sums: &mut Sums,
        ) {
            $(#[target_feature(enable = $feature)])?
            #[inline(never)]
            fn tile<const GROUP: usize, const MIN: bool, const SMALL: bool>(
                rows: &[Rows256],
                panel: &[PanelBlock],
                sums: &mut Sums,
            ) {
                panels::tile_256::<$dot, GROUP, MIN, SMALL>(rows, panel, sums)
            }
            #[allow(unused_unsafe, reason = "without features it is safe")]
            // SAFETY: as an entry's: see the head of the level's file.
            unsafe { tile::<GROUP, MIN, SMALL>(rows, panel, sums) }
        }
    };
}
pub(in crate::isa) use tiles;

/// Four rows of four words to four columns.
#[inline(always)]
pub(in crate::isa) fn transpose(x: [int8x16_t; 4]) -> [int8x16_t; 4] {
    let ([ac, ac_2], [bd, bd_2]) = (zip_words(x[0], x[2]), zip_words(x[1], x[3]));
    let ([a, b], [c, d]) = (zip_words(ac, bd), zip_words(ac_2, bd_2));
    [a, b, c, d]
}

#[inline(always)]
fn transpose_f32(x: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let (ab, ab_2) = (vtrn1q_f32(x[0], x[1]), vtrn2q_f32(x[0], x[1]));
    let (cd, cd_2) = (vtrn1q_f32(x[2], x[3]), vtrn2q_f32(x[2], x[3]));
    let ([a, c], [b, d]) = (zip_halves_f32(ab, cd), zip_halves_f32(ab_2, cd_2));
    [a, b, c, d]
}

/// Multiplications that widen: `smull`, `smlal`, `sadalp`.
pub(in crate::isa) struct Widening;

impl Dot for Widening {
    const AV: usize = 2;
    const PARTS: usize = 2;

    #[inline(always)]
    fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        vpadalq_s16(sum, products(a, b))
    }

    /// A register is 16 codes of one token.
    #[inline(always)]
    fn order_panel(words: [int8x16_t; 4]) -> [int8x16_t; 4] {
        transpose(words)
    }

    #[inline(always)]
    fn place(quad: usize, half: usize, i: usize) -> usize {
        8 * half + 4 * quad + i
    }

    /// A part is four tokens, whose 16 accumulators leave registers for the operands.
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
        let (rows, panel) = (rows.as_flattened().as_chunks().0, panel.as_flattened().as_chunks().0);
        let sums = if SMALL {
            small_isums::<FROM, TO>(rows, &panel[8 * PART..])
        } else {
            wide_isums::<FROM, TO>(rows, &panel[8 * PART..])
        };
        let mut isums = [vdupq_n_s32(0); N];
        for r in 0..4 {
            isums[2 * r + PART] = vaddq_s32(load_s32(&start[2 * r + PART]), sums[r]);
        }
        isums
    }

    tiles!(Widening);
}

/// Products, two to an i16: at most `2 * 128 * 127`.
#[inline(always)]
fn products(a: int8x16_t, b: int8x16_t) -> int16x8_t {
    vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b)
}

/// Four rows by four tokens: an accumulator each, of eight i16 that hold all products, which a tree
/// of pairwise additions turns into a register per row. Eight bytes at a time, so that no half of a
/// register has to be moved.
#[inline(always)]
fn small_isums<const FROM: usize, const TO: usize>(
    rows: &[[i8; 8]],
    panel: &[[i8; 8]],
) -> [int32x4_t; 4] {
    let mut sums = [[vdupq_n_s16(0); 4]; 4];
    for half in FROM..TO {
        for eight in 0..2 {
            let mut q = [vdup_n_s8(0); 4];
            for t in 0..4 {
                q[t] = load_8(&panel[2 * (8 * half + t) + eight]);
            }
            for r in 0..4 {
                let w = load_8(&rows[2 * (4 * half + r) + eight]);
                for t in 0..4 {
                    sums[r][t] = if half == FROM && eight == 0 {
                        vmull_s8(w, q[t])
                    } else {
                        vmlal_s8(sums[r][t], w, q[t])
                    };
                }
            }
        }
    }
    let mut totals = [vdupq_n_s32(0); 4];
    for r in 0..4 {
        let [a, b, c, d] = sums[r];
        totals[r] = vpaddlq_s16(vpaddq_s16(vpaddq_s16(a, b), vpaddq_s16(c, d)));
    }
    totals
}

/// As [`small_isums`] for any codes, of which an i16 holds two products.
#[inline(always)]
fn wide_isums<const FROM: usize, const TO: usize>(
    rows: &[[i8; 8]],
    panel: &[[i8; 8]],
) -> [int32x4_t; 4] {
    let mut totals = [vdupq_n_s32(0); 4];
    for r in 0..4 {
        let mut sums = [vdupq_n_s32(0); 4];
        for half in FROM..TO {
            let w = 2 * (4 * half + r);
            let (low, high) = (load_8(&rows[w]), load_8(&rows[w + 1]));
            for t in 0..4 {
                let q = 2 * (8 * half + t);
                let pairs = vmlal_s8(vmull_s8(low, load_8(&panel[q])), high, load_8(&panel[q + 1]));
                sums[t] =
                    if half == FROM { vpaddlq_s16(pairs) } else { vpadalq_s16(sums[t], pairs) };
            }
        }
        totals[r] = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
    }
    totals
}
