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
use crate::float::FloatOps;
use crate::isa::detect::{Level, token};
use crate::isa::scalar;
use crate::table::{KernelTable, Scratch};
use dot::Widening;
use vector::Widen;

/// The table.
pub(crate) fn table(_: token::Neon) -> &'static KernelTable {
    &TABLE
}

/// `TABLE` of a level that multiplies by a [`dot::Dot`], with the feature that this needs; laid over
/// the types of the level below.
macro_rules! level {
    ($level:expr, $below:expr, $dot:ty $(, $feature:literal)?) => {
        static TABLE: $crate::table::KernelTable = $crate::table::KernelTable {
            level: $level,
            types: &TYPES,
            sparse: &[],
            float: $crate::isa::neon::FLOAT,
            pack: $crate::isa::neon::pack::pack,
            order: $crate::act::PanelOrder::Plus128,
            interleaved_rows_max: $crate::act::ROWS_MAX,
        };

        pub(in crate::isa) const TYPES: [$crate::table::TypeKernels; $crate::isa::scalar::N_TYPES] =
            $crate::table::overlaid($level, $below, MATMULS, &[]);

        const MATMULS: &[(gguf_rs_lite::GgmlType, $crate::table::MatmulFn)] = {
            use $crate::block::*;
            use $crate::isa::neon::matmul_float;
            &[
                (F32::TY, matmul_float::<F32>),
                (F16::TY, matmul_float::<F16>),
                (Bf16::TY, matmul_float::<Bf16>),
                (BlockQ4_0::TY, matmul_32::<BlockQ4_0>),
                (BlockQ4_1::TY, matmul_32::<BlockQ4_1>),
                (BlockQ5_0::TY, matmul_32::<BlockQ5_0>),
                (BlockQ5_1::TY, matmul_32::<BlockQ5_1>),
                (BlockQ8_0::TY, matmul_32::<BlockQ8_0>),
                (BlockIQ4NL::TY, matmul_32::<BlockIQ4NL>),
                (BlockMXFP4::TY, matmul_32::<BlockMXFP4>),
                (BlockQ2K::TY, matmul_256::<BlockQ2K>),
                (BlockQ3K::TY, matmul_256::<BlockQ3K>),
                (BlockQ4K::TY, matmul_256::<BlockQ4K>),
                (BlockQ5K::TY, matmul_256::<BlockQ5K>),
                (BlockQ6K::TY, matmul_256::<BlockQ6K>),
                (BlockIQ4XS::TY, matmul_256::<BlockIQ4XS>),
                (BlockTQ1_0::TY, matmul_256::<BlockTQ1_0>),
                (BlockTQ2_0::TY, matmul_256::<BlockTQ2_0>),
                (BlockIQ1S::TY, matmul_256::<BlockIQ1S>),
                (BlockIQ1M::TY, matmul_256::<BlockIQ1M>),
                (BlockIQ2XXS::TY, matmul_256::<BlockIQ2XXS>),
                (BlockIQ2XS::TY, matmul_256::<BlockIQ2XS>),
                (BlockIQ2S::TY, matmul_256::<BlockIQ2S>),
                (BlockIQ3XXS::TY, matmul_256::<BlockIQ3XXS>),
                (BlockIQ3S::TY, matmul_256::<BlockIQ3S>),
                (BlockQ1_0::TY, matmul_16::<BlockQ1_0>),
                (BlockQ2_0::TY, matmul_16::<BlockQ2_0>),
                (BlockNVFP4::TY, matmul_16::<BlockNVFP4>),
            ]
        };

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
                        panels::$kernel::<B, $dot>(w, n_rows, acts, scratch.of::<panels::PanelScratch>(), y);
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

level!(Level::Neon, scalar::TYPES, Widening);

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
    prefetch: FloatOps::SCALAR.prefetch,
    exp_sum: float::exp_sum,
    exp_moments: float::exp_moments,
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
