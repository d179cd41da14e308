//! NEON, which every 64-bit ARM has: its table, and the kernels of all levels above.
//!
//! Levels differ in how they multiply bytes, [`dot::Dot`], and in nothing else; [`level`] makes
//! their tables. An entry's one `unsafe` calls a function of the level's features. It is sound
//! because entries leave a level's file only inside its table, and that only against the level's
//! token; this level needs none.

#![allow(clippy::needless_range_loop, reason = "registers are numbered")]

mod attention;
mod codebook;
mod dense;
pub(in crate::isa) mod dot;
mod float;
pub(in crate::isa) mod pack;
pub(in crate::isa) mod panels;
mod quantized;
pub(in crate::isa) mod rows;
pub(in crate::isa) mod unpack;
pub(in crate::isa) mod vector;

use crate::act::Acts;
use crate::block::Float;
use crate::isa::Level;
use crate::table::{FloatOps, KernelTable, SCALAR_FLOAT, Scratch};
use dot::Widening;
use vector::Widen;

pub(crate) use panels::PanelScratch;

/// The table.
pub(crate) fn table() -> &'static KernelTable {
    &TABLE
}

/// `TABLE` of a level that multiplies by a [`dot::Dot`], with the feature that this needs.
macro_rules! level {
    ($level:expr, $dot:ty $(, $feature:literal)?) => {
        static TABLE: $crate::table::KernelTable = $crate::table::KernelTable {
            level: $level,
            types: &TYPES,
            float: $crate::isa::neon::FLOAT,
            pack: $crate::isa::neon::pack::pack,
            words: $crate::act::Words::Plus128,
        };

        static TYPES: [$crate::table::TypeKernels; 28] = {
            use $crate::block::*;
            use $crate::isa::neon::matmul_float;
            use $crate::table::{blocks_16, blocks_32, blocks_256, floats, read_only_256};
            [
                at_level(floats::<F32>(), matmul_float::<F32>),
                at_level(floats::<F16>(), matmul_float::<F16>),
                at_level(floats::<Bf16>(), matmul_float::<Bf16>),
                at_level(blocks_32::<BlockQ4_0>(), matmul_32::<BlockQ4_0>),
                at_level(blocks_32::<BlockQ4_1>(), matmul_32::<BlockQ4_1>),
                at_level(blocks_32::<BlockQ5_0>(), matmul_32::<BlockQ5_0>),
                at_level(blocks_32::<BlockQ5_1>(), matmul_32::<BlockQ5_1>),
                at_level(blocks_32::<BlockQ8_0>(), matmul_32::<BlockQ8_0>),
                at_level(blocks_32::<BlockIQ4NL>(), matmul_32::<BlockIQ4NL>),
                at_level(blocks_32::<BlockMXFP4>(), matmul_32::<BlockMXFP4>),
                at_level(blocks_256::<BlockQ2K>(), matmul_256::<BlockQ2K>),
                at_level(blocks_256::<BlockQ3K>(), matmul_256::<BlockQ3K>),
                at_level(blocks_256::<BlockQ4K>(), matmul_256::<BlockQ4K>),
                at_level(blocks_256::<BlockQ5K>(), matmul_256::<BlockQ5K>),
                at_level(blocks_256::<BlockQ6K>(), matmul_256::<BlockQ6K>),
                at_level(blocks_256::<BlockIQ4XS>(), matmul_256::<BlockIQ4XS>),
                at_level(blocks_256::<BlockTQ1_0>(), matmul_256::<BlockTQ1_0>),
                at_level(blocks_256::<BlockTQ2_0>(), matmul_256::<BlockTQ2_0>),
                at_level(read_only_256::<BlockIQ1S>(), matmul_256::<BlockIQ1S>),
                at_level(read_only_256::<BlockIQ1M>(), matmul_256::<BlockIQ1M>),
                at_level(read_only_256::<BlockIQ2XXS>(), matmul_256::<BlockIQ2XXS>),
                at_level(read_only_256::<BlockIQ2XS>(), matmul_256::<BlockIQ2XS>),
                at_level(read_only_256::<BlockIQ2S>(), matmul_256::<BlockIQ2S>),
                at_level(read_only_256::<BlockIQ3XXS>(), matmul_256::<BlockIQ3XXS>),
                at_level(read_only_256::<BlockIQ3S>(), matmul_256::<BlockIQ3S>),
                at_level(blocks_16::<BlockQ1_0>(), matmul_16::<BlockQ1_0>),
                at_level(blocks_16::<BlockQ2_0>(), matmul_16::<BlockQ2_0>),
                at_level(blocks_16::<BlockNVFP4>(), matmul_16::<BlockNVFP4>),
            ]
        };

        const fn at_level(
            scalar: $crate::table::TypeKernels,
            matmul: $crate::table::MatmulFn,
        ) -> $crate::table::TypeKernels {
            $crate::table::TypeKernels { level: $level, matmul, ..scalar }
        }

        $crate::isa::neon::entry!(matmul_16, Codes16, blocks_16, $dot $(, $feature)?);
        $crate::isa::neon::entry!(matmul_32, Codes32, blocks_32, $dot $(, $feature)?);
        $crate::isa::neon::entry!(matmul_256, Codes256, blocks_256, $dot $(, $feature)?);
    };
}
pub(in crate::isa) use level;

/// Panels by one kernel, rows by one of so many tokens, which takes the first of them and the part
/// of the outputs that is theirs.
macro_rules! entry {
    ($name:ident, $codes:ident, $kernel:ident, $dot:ty $(, $feature:literal)?) => {
        fn $name<B: $crate::isa::neon::unpack::$codes>(
            w: &[u8],
            n_rows: usize,
            acts: &$crate::act::Acts<'_>,
            scratch: &mut $crate::table::Scratch,
            y: &mut [f32],
        ) {
            use $crate::isa::neon::{panels, rows};
            use $crate::isa::tokens::{few_tokens, parts_of};

            $(#[target_feature(enable = $feature)])?
            fn kernel<B: $crate::isa::neon::unpack::$codes>(
                w: &[u8],
                n_rows: usize,
                acts: &$crate::act::Acts<'_>,
                scratch: &mut $crate::table::Scratch,
                y: &mut [f32],
            ) {
                match acts.plan.layout() {
                    $crate::act::Layout::Panels => {
                        panels::$kernel::<B, $dot>(w, n_rows, acts, &mut scratch.panels, y);
                    }
                    $crate::act::Layout::Rows => few_tokens!(acts.plan.n_tokens, |N, first| {
                        let y = &mut y[first * n_rows..][..N * n_rows];
                        rows::$kernel::<B, $dot, N>(w, n_rows, acts, first, y);
                    }),
                }
            }
            #[allow(unused_unsafe, reason = "without a feature it is safe")]
            // SAFETY: the CPU has the feature, see the head of this file.
            unsafe { kernel::<B>(w, n_rows, acts, scratch, y) }
        }
    };
}
pub(in crate::isa) use entry;

level!(Level::Neon, Widening);

pub(in crate::isa) const FLOAT: FloatOps = FloatOps {
    rms_norm: float::rms_norm,
    layer_norm: float::layer_norm,
    act: float::act,
    glu: float::glu,
    rope: float::rope,
    add: float::add,
    scale: float::scale,
    add_scaled: float::add_scaled,
    dot: float::dot,
    add_product_f32: |n, a, b, cols, c, _| float::add_product_f32(n, a, b, cols, c),
    add_product_f16: |n, a, b, cols, c, _| float::add_product_f16(n, a, b, cols, c),
    widen_lanes_q8_0: float::widen_lanes_q8_0,
    widen_lanes_q4_0: float::widen_lanes_q4_0,
    widen_rows_q8_0: float::widen_rows_q8_0,
    widen_rows_q4_0: float::widen_rows_q4_0,
    hadamard: float::hadamard,
    soft_cap: float::soft_cap,
    prefetch: SCALAR_FLOAT.prefetch,
    exp_sum: float::exp_sum,
    max: float::max,
    softmax: float::softmax,
    f16_to_f32: float::f16_to_f32,
    f32_to_f16: float::f32_to_f16,
};

/// Float weights.
pub(in crate::isa) fn matmul_float<W: Float + Widen>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    dense::matmul::<W>(w, n_rows, acts, y);
}
