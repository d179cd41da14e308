//! AVX2, FMA and F16C: the table, and safe entries to the kernels.
//!
//! An entry's one `unsafe` calls a function of the three features. It is sound because entries
//! leave this file only inside [`TABLE`], and that only against the level's token; higher levels,
//! whose tokens prove as much, call some of them.
//!
//! Hot loops count and index: `array::map` and `from_fn` lack the features, so what they are given
//! is not inlined through them.

#![allow(clippy::needless_range_loop, reason = "see above")]

mod attention;
mod blocks;
pub(in crate::isa) mod codebook;
pub(in crate::isa) mod dense;
pub(in crate::isa) mod dot;
mod exp;
mod float;
pub(in crate::isa) mod lanes;
pub(in crate::isa) mod lines;
pub(in crate::isa) mod mem;
pub(in crate::isa) mod pack;
pub(in crate::isa) mod panels;
mod quantized;
pub(in crate::isa) mod reorder;
pub(in crate::isa) mod rows;
pub(in crate::isa) mod sum;
pub(in crate::isa) mod two_of_four;
pub(in crate::isa) mod unpack;

use super::scalar::N_TYPES;
use super::sse41;
use crate::act::{ActPlan, ActUnit, Acts, Layout, PanelOrder};
use crate::block::expanded::*;
use crate::block::*;
use crate::float::{Activation, Ahead, FloatOps, RopePairing};
use crate::interleave::{Parts, groups};
use crate::isa::detect::{Level, token};
use crate::isa::tokens::{Rows, few_tokens, interleaved_matmul, parts_of};
use crate::table::{
    ExpandedRows, GroupBlocks, Interleaved, InterleavedFn, KernelTable, MatmulFn, Scratch,
    TypeKernels, overlaid, overlaid_blocks, sparse, with_rows_max,
};
use dense::DenseScratch;
use dot::{Dot, MulAdd};
use gguf_rs_lite::GgmlType;
use lanes::LANES;
use panels::fours;
use std::marker::PhantomData;

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: token::Avx2) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable = KernelTable {
    level: Level::Avx2,
    types: &AVX2_TYPES,
    sparse: &sparse(&AVX2_TYPES, Kernels::<MulAdd>::SPARSE),
    float: FLOAT,
    pack: entry_pack,
    order: PanelOrder::ByHalves,
    interleaved_rows_max: INTERLEAVED_ROWS_MAX,
};

/// Tokens up to which rows are faster for interleaved weights. Measured on Zen 3 with Q4_K, Q6_K and
/// MXFP4: panels take these apart for sixteen tokens in the time that rows take for twelve.
const INTERLEAVED_ROWS_MAX: usize = 12;

static AVX2_TYPES: [TypeKernels; N_TYPES] = with_rows_max(TYPES, ROWS_OF_TYPES);

/// Tokens up to which rows are as fast for types' weights of the file. Measured on Zen 3: a panel costs
/// the same for one token and for eight, rows for four of them what one panel does of MXFP4, for five or
/// six of Q4_K and Q6_K, from memory. Other types have not been measured, or, as Q8_0, are as fast as rows.
pub(in crate::isa) const ROWS_OF_TYPES: &[(GgmlType, usize)] =
    &[(BlockMXFP4::TY, 4), (BlockQ4K::TY, 6), (BlockQ6K::TY, 6)];

pub(in crate::isa) const TYPES: [TypeKernels; N_TYPES] = {
    let below = overlaid_blocks(sse41::TYPES, blocks::BLOCKS);
    let floats = overlaid(Level::Avx2, below, FLOATS, &[]);
    overlaid(Level::Avx2, floats, Kernels::<MulAdd>::MATMULS, Kernels::<MulAdd>::INTERLEAVED)
};

const FLOATS: &[(GgmlType, MatmulFn)] = &[(F32::TY, f32), (F16::TY, f16), (Bf16::TY, bf16)];

/// The kernels of integer types that multiply by `D`.
pub(in crate::isa) struct Kernels<D>(PhantomData<D>);

macro_rules! expanded {
    ($name:ident) => {
        expanded_form::$name::<LANES>(interleaved::$name::<D>, expanded_rows::$name::<D>)
    };
}

impl<D: Dot> Kernels<D> {
    pub(in crate::isa) const MATMULS: &'static [(GgmlType, MatmulFn)] = &[
        (BlockQ4_0::TY, q4_0::<D>),
        (BlockQ4_1::TY, q4_1::<D>),
        (BlockQ5_0::TY, q5_0::<D>),
        (BlockQ5_1::TY, q5_1::<D>),
        (BlockQ8_0::TY, q8_0::<D>),
        (BlockQ2K::TY, q2_k::<D>),
        (BlockQ3K::TY, q3_k::<D>),
        (BlockQ4K::TY, q4_k::<D>),
        (BlockQ5K::TY, q5_k::<D>),
        (BlockQ6K::TY, q6_k::<D>),
        (BlockIQ4NL::TY, iq4_nl::<D>),
        (BlockIQ4XS::TY, iq4_xs::<D>),
        (BlockMXFP4::TY, mxfp4::<D>),
        (BlockIQ1S::TY, iq1_s::<D>),
        (BlockIQ1M::TY, iq1_m::<D>),
        (BlockIQ2XXS::TY, iq2_xxs::<D>),
        (BlockIQ2XS::TY, iq2_xs::<D>),
        (BlockIQ2S::TY, iq2_s::<D>),
        (BlockIQ3XXS::TY, iq3_xxs::<D>),
        (BlockIQ3S::TY, iq3_s::<D>),
        (BlockTQ1_0::TY, tq1_0::<D>),
        (BlockTQ2_0::TY, tq2_0::<D>),
        (BlockQ1_0::TY, q1_0::<D>),
        (BlockQ2_0::TY, q2_0::<D>),
        (BlockNVFP4::TY, nvfp4::<D>),
    ];

    pub(in crate::isa) const INTERLEAVED: &'static [(GgmlType, Interleaved)] = &[
        (BlockQ4_0::TY, interleaved_by::<LANES>(interleaved::q4_0::<D>)),
        (BlockQ4_1::TY, interleaved_by::<LANES>(interleaved::q4_1::<D>)),
        (BlockQ5_0::TY, interleaved_by::<LANES>(interleaved::q5_0::<D>)),
        (BlockQ5_1::TY, interleaved_by::<LANES>(interleaved::q5_1::<D>)),
        (BlockQ8_0::TY, interleaved_by::<LANES>(interleaved::q8_0::<D>)),
        (BlockQ2K::TY, interleaved_by::<LANES>(interleaved::q2_k::<D>)),
        (BlockQ3K::TY, interleaved_by::<LANES>(interleaved::q3_k::<D>)),
        (BlockQ4K::TY, interleaved_by::<LANES>(interleaved::q4_k::<D>)),
        (BlockQ5K::TY, interleaved_by::<LANES>(interleaved::q5_k::<D>)),
        (BlockQ6K::TY, interleaved_by::<LANES>(interleaved::q6_k::<D>)),
        (BlockIQ4NL::TY, interleaved_by::<LANES>(interleaved::iq4_nl::<D>)),
        (BlockIQ4XS::TY, interleaved_by::<LANES>(interleaved::iq4_xs::<D>)),
        (BlockMXFP4::TY, interleaved_by::<LANES>(interleaved::mxfp4::<D>)),
        (BlockIQ1S::TY, expanded!(iq1_s)),
        (BlockIQ1M::TY, expanded!(iq1_m)),
        (BlockIQ2XXS::TY, expanded!(iq2_xxs)),
        (BlockIQ2XS::TY, expanded!(iq2_xs)),
        (BlockIQ2S::TY, expanded!(iq2_s)),
        (BlockIQ3XXS::TY, expanded!(iq3_xxs)),
        (BlockIQ3S::TY, expanded!(iq3_s)),
        (BlockTQ1_0::TY, interleaved_by::<LANES>(interleaved::tq1_0::<D>)),
        (BlockTQ2_0::TY, interleaved_by::<LANES>(interleaved::tq2_0::<D>)),
        (BlockQ1_0::TY, interleaved_by::<LANES>(interleaved::q1_0::<D>)),
        (BlockQ2_0::TY, interleaved_by::<LANES>(interleaved::q2_0::<D>)),
        (BlockNVFP4::TY, interleaved_by::<LANES>(interleaved::nvfp4::<D>)),
    ];
}

impl<D: Dot> Kernels<D> {
    /// Forms without zeros.
    pub(in crate::isa) const SPARSE: &'static [(GgmlType, Interleaved); 2] = &[
        (BlockQ8_0::TY, two_of_four::form::<BlockQ8_0, LANES>(two_of_four::matmul::<BlockQ8_0, D>)),
        (BlockQ4_0::TY, two_of_four::form::<BlockQ4_0, LANES>(two_of_four::matmul::<BlockQ4_0, D>)),
    ];
}

/// The interleaved form of `LANES` rows to a group, with its kernel.
pub(in crate::isa) const fn interleaved_by<const LANES: usize>(
    matmul: InterleavedFn,
) -> Interleaved {
    Interleaved {
        lanes: LANES,
        matmul,
        // SAFETY: the CPU has the features, see the head of this file.
        interleave: |ty, rows, out| unsafe {
            reorder::interleave::<LANES>(Parts::of(ty), rows, out);
            true
        },
        // SAFETY: as above.
        restore: |ty, group, out| unsafe { reorder::restore::<LANES>(Parts::of(ty), group, out) },
        blocks: GroupBlocks::Native,
    }
}

/// The expanded form of codebook types, `name: type, scales, words of an expanded block`: given the
/// kernels of groups and of rows.
macro_rules! expanded_forms {
    ($($name:ident: $block:ident, $scales:literal, $words:literal;)*) => {
        pub(in crate::isa) mod expanded_form {
            use super::*;
            $(pub const fn $name<const LANES: usize>(
                matmul: InterleavedFn,
                panels: MatmulFn,
            ) -> Interleaved {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn interleave<const LANES: usize>(rows: &[u8], out: &mut [u8]) {
                    expand::<$block, $scales, $words, LANES>(rows, out, |b, wide| {
                        codebook::$name(b, wide)
                    });
                }
                Interleaved {
                    lanes: LANES,
                    matmul,
                    interleave: |_, rows, out| {
                        // SAFETY: the CPU has the features, see the head of this file.
                        unsafe { interleave::<LANES>(rows, out) };
                        true
                    },
                    restore: |_, group, out| {
                        // SAFETY: as above.
                        unsafe { reorder::restore::<LANES>(Parts::of_words($words), group, out) }
                    },
                    blocks: GroupBlocks::Expanded(ExpandedRows {
                        block_bytes: 4 * $words,
                        matmul: panels,
                        dequantize: dequantize_row::<Expanded<$block, $scales>>,
                    }),
                }
            })*
        }
    };
}

expanded_forms! {
    iq1_s: BlockIQ1S, 8, 35;
    iq1_m: BlockIQ1M, 16, 37;
    iq2_xxs: BlockIQ2XXS, 8, 35;
    iq2_xs: BlockIQ2XS, 16, 37;
    iq2_s: BlockIQ2S, 16, 37;
    iq3_xxs: BlockIQ3XXS, 8, 35;
    iq3_s: BlockIQ3S, 8, 35;
}

/// A group of `LANES` rows, its blocks written out in `W` words and interleaved.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn expand<B: Codebook, const S: usize, const W: usize, const LANES: usize>(
    rows: &[u8],
    out: &mut [u8],
    unpack: impl Fn(&B, &mut unpack::Wide256),
) {
    const { assert!(size_of::<Expanded<B, S>>() == 4 * W) }
    let (rows, mut wide) = (as_blocks::<B>(rows), unpack::Wide256::default());
    let n = rows.len() / LANES;
    let mut column = [[[0; 4]; W]; LANES];
    for (b, out) in out.chunks_exact_mut(LANES * 4 * W).enumerate() {
        let column = column.as_flattened_mut().as_flattened_mut();
        for (r, to) in as_blocks_mut::<Expanded<B, S>>(column).iter_mut().enumerate() {
            unpack(&rows[r * n + b], &mut wide);
            codebook::expand(&wide, to);
        }
        reorder::interleave::<LANES>(Parts::of_words(W), column, out);
    }
}

/// Matrix products of a step: `name: layouts(what unpacks a block)`.
macro_rules! matmuls {
    ($($name:ident: $layouts:ident($($argument:tt)*);)*) => {$(
        pub(in crate::isa) fn $name<D: Dot>(
            w: &[u8],
            n_rows: usize,
            acts: &Acts<'_>,
            scratch: &mut Scratch,
            y: &mut [f32],
        ) {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn kernel<D: Dot>(
                w: &[u8],
                n_rows: usize,
                acts: &Acts<'_>,
                scratch: &mut Scratch,
                y: &mut [f32],
            ) {
                $layouts!($name, w, n_rows, acts, scratch, y, $($argument)*)
            }
            scratch.with_order(acts, D::ORDER, |acts, scratch| {
                // SAFETY: the CPU has the features, see the head of this file.
                unsafe { kernel::<D>(w, n_rows, acts, scratch, y) }
            });
        }
    )*};
}

/// Panels by one kernel, rows by one of so many tokens, which takes the first of them and the part
/// of the outputs that is theirs.
macro_rules! by_layout {
    ($acts:ident, $n_rows:ident, $y:ident, $fours:expr, $panels:expr,
     |$N:ident, $first:ident, $part:ident| $rows:expr) => {
        match $acts.plan.layout() {
            Layout::Panels if D::FOUR => $fours,
            Layout::Panels => $panels,
            Layout::Rows => few_tokens!($acts.plan.n_tokens, |$N, $first| {
                let $part = &mut $y[$first * $n_rows..][..$N * $n_rows];
                $rows
            }),
        }
    };
}

/// [`by_layout`], where rows gain nothing by another step than AVX2's.
macro_rules! panels_or {
    ($name:ident, $w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $fours:expr,
     $panels:expr, |$N:ident, $first:ident, $part:ident| $rows:expr) => {
        if D::FOUR && $acts.plan.layout() == Layout::Rows {
            $name::<MulAdd>($w, $n_rows, $acts, $scratch, $y);
        } else {
            by_layout!($acts, $n_rows, $y, $fours, $panels, |$N, $first, $part| $rows);
        }
    };
}

macro_rules! blocks_32 {
    ($name:ident, $w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $codes:expr) => {
        panels_or!(
            $name,
            $w,
            $n_rows,
            $acts,
            $scratch,
            $y,
            fours::blocks_32::<_, D>($w, $n_rows, $acts, $scratch.of(), $y, $codes),
            panels::blocks_32($w, $n_rows, $acts, $scratch.of(), $y, $codes),
            |N, first, y| rows::blocks_32::<_, N>($w, $n_rows, $acts, first, y, $codes)
        )
    };
}

macro_rules! blocks_16 {
    ($name:ident, $w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $parts:literal,
     $codes:expr, $scales:expr, $eight:expr) => {
        panels_or!(
            $name,
            $w,
            $n_rows,
            $acts,
            $scratch,
            $y,
            fours::blocks_16::<_, D, $parts>(
                $w,
                $n_rows,
                $acts,
                $scratch.of(),
                $y,
                $codes,
                $scales
            ),
            panels::blocks_16::<_, $parts>($w, $n_rows, $acts, $scratch.of(), $y, $codes, $scales),
            |N, first, y| rows::blocks_16::<_, N>($w, $n_rows, $acts, first, y, $codes, $eight)
        )
    };
}

macro_rules! blocks_256 {
    ($name:ident, $w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $codes:expr,
     $scales:expr, $eight:expr) => {
        panels_or!(
            $name,
            $w,
            $n_rows,
            $acts,
            $scratch,
            $y,
            fours::blocks_256::<_, D>($w, $n_rows, $acts, $scratch.of(), $y, $codes, $scales),
            panels::blocks_256($w, $n_rows, $acts, $scratch.of(), $y, $codes, $scales),
            |N, first, y| rows::blocks_256::<_, N>($w, $n_rows, $acts, first, y, $codes, $eight)
        )
    };
}

macro_rules! wide_32 {
    ($name:ident, $w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $codes:expr,
     $d:expr) => {
        by_layout!(
            $acts,
            $n_rows,
            $y,
            fours::wide_32::<_, D>($w, $n_rows, $acts, $scratch.of(), $y, $codes, $d),
            panels::wide_32($w, $n_rows, $acts, $scratch.of(), $y, $codes, $d),
            |N, first, y| rows::wide_32::<_, D, N>($w, $n_rows, $acts, first, y, $codes, $d)
        )
    };
}

macro_rules! wide_256 {
    ($name:ident, $w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $unpack:expr) => {
        panels_or!(
            $name,
            $w,
            $n_rows,
            $acts,
            $scratch,
            $y,
            fours::wide_256::<_, D>($w, $n_rows, $acts, $scratch.of(), $y, $unpack),
            panels::wide_256($w, $n_rows, $acts, $scratch.of(), $y, $unpack),
            |N, first, y| rows::wide_256::<_, N>($w, $n_rows, $acts, first, y, $unpack)
        )
    };
}

/// Products of float weights: `name(what widens eight of them)`.
macro_rules! dense {
    ($($name:ident($widen:expr);)*) => {$(
        pub(in crate::isa) fn $name(
            w: &[u8],
            n_rows: usize,
            acts: &Acts<'_>,
            scratch: &mut Scratch,
            y: &mut [f32],
        ) {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn kernel(
                w: &[u8],
                n_rows: usize,
                acts: &Acts<'_>,
                scratch: &mut DenseScratch,
                y: &mut [f32],
            ) {
                dense::matmul(w, n_rows, acts, scratch, y, $widen)
            }
            // SAFETY: the CPU has the features, see the head of this file.
            unsafe { kernel(w, n_rows, acts, scratch.of(), y) }
        }
    )*};
}

dense! {
    f32(|w| dense::widen_f32(w));
    f16(|w| dense::widen_f16(w));
    bf16(|w| dense::widen_bf16(w));
}

/// Products of interleaved rows: `name: function::<type, words>(what unpacks a block)`.
macro_rules! lanes {
    ($($name:ident: $kernel:ident[$ty:ty, $words:literal]($($argument:expr),*);)*) => {
        mod interleaved {
            use super::*;
            $(interleaved_matmul! {
                pub fn $name<D: Dot>, "avx2,fma,f16c",
                LANES, |group, x, N| lanes::$kernel::<$ty, D, $words, N>(group, &x, $($argument),*),
                lanes::write
            })*
        }
    };
}

lanes! {
    q4_0: blocks_32[BlockQ4_0, 4](|b, g| b.codes_4(0, g), |b| b.scale_alone());
    q4_1: blocks_32[BlockQ4_1, 5](|b, g| b.codes_4(1, g), |b| unpack::pairs_of_halves(b.word(0)));
    q5_0: blocks_32[BlockQ5_0, 5](|b, g| b.codes_5(1, g), |b| b.scale_alone());
    q5_1: blocks_32[BlockQ5_1, 6](|b, g| b.codes_5(2, g), |b| unpack::pairs_of_halves(b.word(0)));
    q8_0: wide_32[BlockQ8_0, 8](|b, g| b.word(g));
    iq4_nl: wide_32[BlockIQ4NL, 4](|b, g| b.iq4(0, g));
    q1_0: blocks_16[BlockQ1_0, 4](|b, j, g| lanes::parts::q1_0(b, j, g), |b| [b.half(); 4]);
    q2_0: blocks_16[BlockQ2_0, 4](|b, j, g| lanes::parts::q2_0(b, j, g), |b| [b.half(); 4]);
    nvfp4: blocks_16[BlockNVFP4, 9](
        |b, j, g| lanes::parts::nvfp4(b, j, g),
        |b| unpack::of_nvfp4(b.word(0))
    );
    mxfp4: blocks_32[BlockMXFP4, 4](|b, g| b.mxfp4(g), |b| b.exponent_alone());
    q2_k: blocks_256[BlockQ2K, 21](
        |b, j, g| lanes::super_block::q2_k(b, j, g),
        |b| unpack::of_q2_k(b.words_at(0), unpack::pairs_of_halves(b.word(20)))
    );
    q3_k: blocks_256[BlockQ3K, 27](
        |b, j, g| lanes::super_block::q3_k(b, j, g),
        |b| unpack::of_q3_k(b.words_at(24), b.half())
    );
    q4_k: blocks_256[BlockQ4K, 36](
        |b, j, g| lanes::super_block::q4_k(b, j, g),
        |b| unpack::of_scales_and_mins(b.words_at(0))
    );
    q5_k: blocks_256[BlockQ5K, 44](
        |b, j, g| lanes::super_block::q5_k(b, j, g),
        |b| unpack::of_scales_and_mins(b.words_at(0))
    );
    q6_k: blocks_256[BlockQ6K, 52](
        |b, j, g| lanes::super_block::q6_k(b, j, g),
        |b| unpack::of_q6_k(b.words_at(48), b.half())
    );
    tq1_0: blocks_256[BlockTQ1_0, 13](
        |b, j, g| lanes::super_block::tq1_0(b, j, g),
        |b| unpack::of_one(b.half())
    );
    tq2_0: blocks_256[BlockTQ2_0, 16](
        |b, j, g| lanes::super_block::tq2_0(b, j, g),
        |b| unpack::of_one(b.half())
    );
    iq4_xs: blocks_256[BlockIQ4XS, 34](
        |b, j, g| lanes::super_block::iq4_xs(b, j, g),
        |b| unpack::of_iq4_xs(b.words_at(0))
    );
    iq1_s: blocks_256[ExpandedIQ1S, 35](
        |b, j, g| lanes::expanded::<BlockIQ1S, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
    iq1_m: blocks_256[ExpandedIQ1M, 37](
        |b, j, g| lanes::expanded::<BlockIQ1M, 16, 37>(b, j, g),
        |b| lanes::expanded_scales::<16, 37>(b)
    );
    iq2_xxs: blocks_256[ExpandedIQ2XXS, 35](
        |b, j, g| lanes::expanded::<BlockIQ2XXS, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
    iq2_xs: blocks_256[ExpandedIQ2XS, 37](
        |b, j, g| lanes::expanded::<BlockIQ2XS, 16, 37>(b, j, g),
        |b| lanes::expanded_scales::<16, 37>(b)
    );
    iq2_s: blocks_256[ExpandedIQ2S, 37](
        |b, j, g| lanes::expanded::<BlockIQ2S, 16, 37>(b, j, g),
        |b| lanes::expanded_scales::<16, 37>(b)
    );
    iq3_xxs: blocks_256[ExpandedIQ3XXS, 35](
        |b, j, g| lanes::expanded::<BlockIQ3XXS, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
    iq3_s: blocks_256[ExpandedIQ3S, 35](
        |b, j, g| lanes::expanded::<BlockIQ3S, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
}

matmuls! {
    q4_0: blocks_32(|b: &BlockQ4_0| unpack::nibbles(&b.qs));
    q4_1: blocks_32(|b: &BlockQ4_1| unpack::nibbles(&b.qs));
    q5_0: blocks_32(|b: &BlockQ5_0| unpack::nibbles_and_fifth(&b.qs, &b.qh));
    q5_1: blocks_32(|b: &BlockQ5_1| unpack::nibbles_and_fifth(&b.qs, &b.qh));
    q8_0: wide_32(|b: &BlockQ8_0| mem::load(&b.qs), |b| b.d);
    iq4_nl: wide_32(|b: &BlockIQ4NL| unpack::iq4(&b.qs), |b| b.d);
    iq4_xs: wide_256(|b, wide| unpack::iq4_xs(b, wide));
    mxfp4: blocks_32(|b| unpack::mxfp4(b));
    iq1_s: wide_256(|b, wide| codebook::iq1_s(b, wide));
    iq1_m: wide_256(|b, wide| codebook::iq1_m(b, wide));
    iq2_xxs: wide_256(|b, wide| codebook::iq2_xxs(b, wide));
    iq2_xs: wide_256(|b, wide| codebook::iq2_xs(b, wide));
    iq2_s: wide_256(|b, wide| codebook::iq2_s(b, wide));
    iq3_xxs: wide_256(|b, wide| codebook::iq3_xxs(b, wide));
    iq3_s: wide_256(|b, wide| codebook::iq3_s(b, wide));
    q1_0: blocks_16(
        4,
        |b, j| unpack::q1_0(b, j),
        |b: &BlockQ1_0, _| [unpack::half(b.d); 2],
        |blocks| unpack::eight_halves(blocks, |b| b.d)
    );
    q2_0: blocks_16(
        2,
        |b, j| unpack::q2_0(b, j),
        |b: &BlockQ2_0, _| [unpack::half(b.d); 2],
        |blocks| unpack::eight_halves(blocks, |b| b.d)
    );
    nvfp4: blocks_16(
        2,
        |b, j| unpack::nvfp4(b, j),
        |b: &BlockNVFP4, j| [nvfp4::scale(b.d[2 * j]), nvfp4::scale(b.d[2 * j + 1])],
        |blocks| unpack::eight_nvfp4(blocks)
    );
    tq1_0: blocks_256(
        |b, j| unpack::tq1_0(b, j),
        |_| unpack::scales_of_one(),
        |blocks| unpack::eight_of_one(blocks)
    );
    tq2_0: blocks_256(
        |b, j| unpack::tq2_0(b, j),
        |_| unpack::scales_of_one(),
        |blocks| unpack::eight_of_one(blocks)
    );
    q2_k: blocks_256(
        |b, j| unpack::q2_k(b, j),
        |b| unpack::scales_q2_k(b),
        |blocks| unpack::eight_q2_k(blocks)
    );
    q3_k: blocks_256(
        |b, j| unpack::q3_k(b, j),
        |b| unpack::scales_q3_k(b),
        |blocks| unpack::eight_q3_k(blocks)
    );
    q4_k: blocks_256(
        |b, j| unpack::q4_k(b, j),
        |b: &BlockQ4K| unpack::scales_and_mins(&b.scales),
        |blocks| unpack::eight_scales_and_mins(blocks)
    );
    q5_k: blocks_256(
        |b, j| unpack::q5_k(b, j),
        |b: &BlockQ5K| unpack::scales_and_mins(&b.scales),
        |blocks| unpack::eight_scales_and_mins(blocks)
    );
    q6_k: blocks_256(
        |b, j| unpack::q6_k(b, j),
        |b| unpack::scales_q6_k(b),
        |blocks| unpack::eight_q6_k(blocks)
    );
}

/// Panels of restored rows of codebook types.
mod expanded_rows {
    use super::*;

    macro_rules! expanded {
        ($name:ident, $w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident,
         $unpack:expr) => {
            if D::FOUR {
                fours::wide_256::<_, D>($w, $n_rows, $acts, $scratch.of(), $y, $unpack)
            } else {
                panels::wide_256($w, $n_rows, $acts, $scratch.of(), $y, $unpack)
            }
        };
    }

    matmuls! {
        iq1_s: expanded(|b: &ExpandedIQ1S, wide| codebook::expanded(b, wide));
        iq1_m: expanded(|b: &ExpandedIQ1M, wide| codebook::expanded(b, wide));
        iq2_xxs: expanded(|b: &ExpandedIQ2XXS, wide| codebook::expanded(b, wide));
        iq2_xs: expanded(|b: &ExpandedIQ2XS, wide| codebook::expanded(b, wide));
        iq2_s: expanded(|b: &ExpandedIQ2S, wide| codebook::expanded(b, wide));
        iq3_xxs: expanded(|b: &ExpandedIQ3XXS, wide| codebook::expanded(b, wide));
        iq3_s: expanded(|b: &ExpandedIQ3S, wide| codebook::expanded(b, wide));
    }
}

pub(in crate::isa) fn entry_pack(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    // SAFETY: the CPU has the features, see the head of this file.
    unsafe { pack::pack(plan, x, unit) }
}

macro_rules! float_ops {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?;)*) => {
        pub(in crate::isa) const FLOAT: FloatOps = FloatOps {
            $($name: {
                fn entry($($arg: $ty),*) $(-> $out)? {
                    // SAFETY: the CPU has the features, see the head of this file.
                    unsafe { float::$name($($arg),*) }
                }
                entry
            },)*
        };
    };
}

float_ops! {
    rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]);
    layer_norm(x: &[f32], w: Option<&[f32]>, b: Option<&[f32]>, eps: f32, out: &mut [f32]);
    act(f: Activation, x: &mut [f32]);
    glu(f: Activation, gate: &[f32], up: &[f32], out: &mut [f32]);
    rope(x: &mut [f32], cos: &[f32], sin: &[f32], pairing: RopePairing);
    add(y: &mut [f32], x: &[f32]);
    scale(y: &mut [f32], f: f32);
    add_scaled(y: &mut [f32], x: &[f32], f: f32);
    dot(a: &[f32], b: &[f32]) -> f32;
    add_product_f32(
        n: usize,
        a: (&[f32], usize),
        b: &[f32],
        cols: usize,
        c: (&mut [f32], usize),
        ahead: Ahead
    );
    add_product_f16(
        n: usize,
        a: (&[f32], usize),
        b: &[u16],
        cols: usize,
        c: (&mut [f32], usize),
        ahead: Ahead
    );
    widen_lanes_q8_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]);
    widen_lanes_q4_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]);
    widen_rows_q8_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]);
    widen_rows_q4_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]);
    hadamard(x: &mut [f32]);
    soft_cap(x: &mut [f32], cap: f32);
    prefetch(address: *const u8, bytes: usize);
    exp_sum(x: &mut [f32], max: f32) -> f32;
    exp_moments(x: &[f32], max: f32) -> [f32; 2];
    max(x: &[f32]) -> f32;
    softmax(x: &mut [f32]);
    f16_to_f32(x: &[u16], out: &mut [f32]);
    f32_to_f16(x: &[f32], out: &mut [u16]);
}
