//! AVX-512 VNNI: prefill of every type, and decoding from interleaved rows of most.
//!
//! `vpdpbusd` multiplies four bytes by four and adds them to an i32, where AVX2 takes three
//! instructions and limits on the codes; 32 registers make larger tiles of floats. All the rest,
//! products of few tokens with rows of the file among it, is as fast in AVX2's kernels, and theirs.
//!
//! An entry's one `unsafe` calls a function of the level's features. It is sound because entries
//! leave this file only inside [`TABLE`], and that only against the level's token, which
//! also proves what AVX2's entries need; the level above, whose token proves as much, has them too.

#![allow(clippy::needless_range_loop, reason = "as in AVX2's kernels")]

mod dense;
mod float;
pub(in crate::isa) mod lanes;
pub(in crate::isa) mod mem;
mod panels;
mod two_of_four;
mod vector;

use super::avx2;
use super::avx2::codebook;
use super::avx2::expanded_form;
use super::avx2::unpack::{self, Codes32};
use super::scalar::N_TYPES;
use crate::act::{Acts, PanelOrder, ROWS_MAX};
use crate::block::expanded::*;
use crate::block::two_of_four::TwoOfFour;
use crate::block::*;
use crate::float::FloatOps;
use crate::interleave::groups;
use crate::isa::detect::{Level, token};
use crate::isa::tokens::{Rows, few_tokens, interleaved_matmul, parts_of};
use crate::table::{
    Interleaved, InterleavedFn, KernelTable, MatmulFn, Scratch, TypeKernels, matmul_of, overlaid,
    sparse,
};
use gguf_rs_lite::GgmlType;

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: token::Avx512Vnni) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable = KernelTable {
    level: Level::Avx512Vnni,
    types: &TYPES,
    sparse: &sparse(&TYPES, SPARSE),
    float: FLOAT,
    pack: avx2::entry_pack,
    order: PanelOrder::Plus128,
    interleaved_rows_max: ROWS_MAX,
};

/// AVX2's float operations, but for what a whole vocabulary goes through.
pub(in crate::isa) const FLOAT: FloatOps = FloatOps {
    exp_moments: |x, max| {
        // SAFETY: the CPU has the features, see above.
        unsafe { float::exp_moments(x, max) }
    },
    ..avx2::FLOAT
};

pub(in crate::isa) static TYPES: [TypeKernels; N_TYPES] =
    overlaid(Level::Avx512Vnni, avx2::TYPES, MATMULS, INTERLEAVED);

/// Forms without zeros.
pub(in crate::isa) const SPARSE: &[(GgmlType, Interleaved); 2] =
    &[(GgmlType::Q8_0, sparse_form::<BlockQ8_0>()), (GgmlType::Q4_0, sparse_form::<BlockQ4_0>())];

const fn sparse_form<B: TwoOfFour>() -> Interleaved {
    avx2::two_of_four::form::<B, { lanes::LANES }>(two_of_four::matmul::<B>)
}

/// Scratch of a thread: unpacked weights and sums.
#[derive(Debug, Default)]
pub(in crate::isa) struct VnniScratch {
    panels: panels::PanelScratch,
    dense: dense::DenseScratch,
}

/// Matrix products: `type, name: kernel of more than so many tokens, (what unpacks
/// a block)`.
macro_rules! matmuls {
    ($($ty:ident, $name:ident: $kernel:path, $few:expr, ($($argument:expr),*);)*) => {
        const MATMULS: &[(GgmlType, MatmulFn)] = &[$((GgmlType::$ty, $name),)*];

        $(fn $name(
            w: &[u8],
            n_rows: usize,
            acts: &Acts<'_>,
            scratch: &mut Scratch,
            y: &mut [f32],
        ) {
            #[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn kernel(
                w: &[u8],
                n_rows: usize,
                acts: &Acts<'_>,
                scratch: &mut VnniScratch,
                y: &mut [f32],
            ) {
                $kernel(w, n_rows, acts, scratch, y, $($argument),*)
            }
            const FEW_TOKENS: MatmulFn = matmul_of(GgmlType::$ty, &avx2::TYPES);
            if acts.plan.n_tokens <= $few {
                return FEW_TOKENS(w, n_rows, acts, scratch, y);
            }
            // SAFETY: the CPU has the features, see the head of this file.
            unsafe { kernel(w, n_rows, acts, scratch.of::<VnniScratch>(), y) }
        })*
    };
}

matmuls! {
    F32, f32: dense::matmul, dense::few_of::<F32>(), (|w| avx2::dense::widen_f32(w));
    F16, f16: dense::matmul, dense::few_of::<F16>(), (|w| avx2::dense::widen_f16(w));
    BF16, bf16: dense::matmul, dense::few_of::<Bf16>(), (|w| avx2::dense::widen_bf16(w));
    Q4_0, q4_0: panels::blocks_32, ROWS_MAX, (
        |b: &BlockQ4_0| panels::less(unpack::nibbles(&b.qs), BlockQ4_0::OFFSET),
        |b| panels::halves(b)
    );
    Q4_1, q4_1: panels::blocks_32, ROWS_MAX, (
        |b: &BlockQ4_1| panels::less(unpack::nibbles(&b.qs), BlockQ4_1::OFFSET),
        |b| panels::halves(b)
    );
    Q5_0, q5_0: panels::blocks_32, ROWS_MAX, (
        |b: &BlockQ5_0| {
            panels::less(unpack::nibbles_and_fifth(&b.qs, &b.qh), BlockQ5_0::OFFSET)
        },
        |b| panels::halves(b)
    );
    Q5_1, q5_1: panels::blocks_32, ROWS_MAX, (
        |b: &BlockQ5_1| {
            panels::less(unpack::nibbles_and_fifth(&b.qs, &b.qh), BlockQ5_1::OFFSET)
        },
        |b| panels::halves(b)
    );
    Q8_0, q8_0: panels::blocks_32, ROWS_MAX, (
        |b: &BlockQ8_0| avx2::mem::load(&b.qs),
        |b| [unpack::half(b.d), 0.0]
    );
    IQ4_NL, iq4_nl: panels::blocks_32, ROWS_MAX, (
        |b: &BlockIQ4NL| unpack::iq4(&b.qs),
        |b| [unpack::half(b.d), 0.0]
    );
    MXFP4, mxfp4: panels::blocks_32, ROWS_MAX, (
        |b| panels::less(unpack::mxfp4(b), BlockMXFP4::OFFSET),
        |b| [b.d(), 0.0]
    );
    Q1_0, q1_0: panels::blocks_16::<_, 4>, ROWS_MAX, (
        |b, j| unpack::q1_0(b, j),
        |b: &BlockQ1_0, _| [unpack::half(b.d); 2]
    );
    Q2_0, q2_0: panels::blocks_16::<_, 2>, ROWS_MAX, (
        |b, j| unpack::q2_0(b, j),
        |b: &BlockQ2_0, _| [unpack::half(b.d); 2]
    );
    NVFP4, nvfp4: panels::blocks_16::<_, 2>, ROWS_MAX, (
        |b, j| unpack::nvfp4(b, j),
        |b: &BlockNVFP4, j| [nvfp4::scale(b.d[2 * j]), nvfp4::scale(b.d[2 * j + 1])]
    );
    Q2_K, q2_k: panels::blocks_256, ROWS_MAX, (|b, j| unpack::q2_k(b, j), |b| unpack::scales_q2_k(b));
    Q3_K, q3_k: panels::blocks_256, ROWS_MAX, (|b, j| unpack::q3_k(b, j), |b| unpack::scales_q3_k(b));
    Q4_K, q4_k: panels::blocks_256, ROWS_MAX, (
        |b, j| unpack::q4_k(b, j),
        |b: &BlockQ4K| unpack::scales_and_mins(&b.scales)
    );
    Q5_K, q5_k: panels::blocks_256, ROWS_MAX, (
        |b, j| unpack::q5_k(b, j),
        |b: &BlockQ5K| unpack::scales_and_mins(&b.scales)
    );
    Q6_K, q6_k: panels::blocks_256, ROWS_MAX, (|b, j| unpack::q6_k(b, j), |b| unpack::scales_q6_k(b));
    TQ1_0, tq1_0: panels::blocks_256, ROWS_MAX, (
        |b, j| unpack::tq1_0(b, j),
        |_| unpack::scales_of_one()
    );
    TQ2_0, tq2_0: panels::blocks_256, ROWS_MAX, (
        |b, j| unpack::tq2_0(b, j),
        |_| unpack::scales_of_one()
    );
    IQ4_XS, iq4_xs: panels::blocks_256, ROWS_MAX, (
        |b, j| unpack::iq4_xs_codes(b, j),
        |b| unpack::scales_iq4_xs(b)
    );
    IQ1_S, iq1_s: panels::wide_256, ROWS_MAX, (|b, wide| codebook::iq1_s(b, wide));
    IQ1_M, iq1_m: panels::wide_256, ROWS_MAX, (|b, wide| codebook::iq1_m(b, wide));
    IQ2_XXS, iq2_xxs: panels::wide_256, ROWS_MAX, (|b, wide| codebook::iq2_xxs(b, wide));
    IQ2_XS, iq2_xs: panels::wide_256, ROWS_MAX, (|b, wide| codebook::iq2_xs(b, wide));
    IQ2_S, iq2_s: panels::wide_256, ROWS_MAX, (|b, wide| codebook::iq2_s(b, wide));
    IQ3_XXS, iq3_xxs: panels::wide_256, ROWS_MAX, (|b, wide| codebook::iq3_xxs(b, wide));
    IQ3_S, iq3_s: panels::wide_256, ROWS_MAX, (|b, wide| codebook::iq3_s(b, wide));
}

/// Panels of restored rows of codebook types.
mod expanded_rows {
    use super::*;

    macro_rules! expanded {
        ($($ty:ident, $name:ident: $block:ty;)*) => {
            /// The interleaved form of a type, with its kernel of groups.
            pub const fn form_of(ty: GgmlType, matmul: InterleavedFn) -> Interleaved {
                match ty {
                    $(GgmlType::$ty => {
                        expanded_form::$name::<{ lanes::LANES }>(matmul, $name)
                    })*
                    _ => avx2::interleaved_by::<{ lanes::LANES }>(matmul),
                }
            }

            $(fn $name(
                w: &[u8],
                n_rows: usize,
                acts: &Acts<'_>,
                scratch: &mut Scratch,
                y: &mut [f32],
            ) {
                #[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                fn kernel(
                    w: &[u8],
                    n_rows: usize,
                    acts: &Acts<'_>,
                    scratch: &mut VnniScratch,
                    y: &mut [f32],
                ) {
                    panels::wide_256(w, n_rows, acts, scratch, y, |b: &$block, wide| {
                        codebook::expanded(b, wide);
                    });
                }
                // SAFETY: the CPU has the features, see the head of this file.
                unsafe { kernel(w, n_rows, acts, scratch.of::<VnniScratch>(), y) }
            })*
        };
    }

    expanded! {
        IQ1_S, iq1_s: ExpandedIQ1S;
        IQ1_M, iq1_m: ExpandedIQ1M;
        IQ2_XXS, iq2_xxs: ExpandedIQ2XXS;
        IQ2_XS, iq2_xs: ExpandedIQ2XS;
        IQ2_S, iq2_s: ExpandedIQ2S;
        IQ3_XXS, iq3_xxs: ExpandedIQ3XXS;
        IQ3_S, iq3_s: ExpandedIQ3S;
    }
}

/// Products of interleaved rows: `type, name: kernel[parameters](what unpacks a block)`. Q6_K stays
/// with AVX2's kernel: one of sixteen rows is faster from the cache, but slower from memory.
macro_rules! lanes {
    ($($ty:ident, $name:ident: $kernel:ident[$($parameter:tt),*]($($argument:expr),*);)*) => {
        const INTERLEAVED: &[(GgmlType, Interleaved)] =
            &[$((GgmlType::$ty, expanded_rows::form_of(GgmlType::$ty, interleaved::$name)),)*];

        mod interleaved {
            use super::*;
            $(interleaved_matmul! {
                pub fn $name<>, "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
                lanes::LANES,
                |group, x, N| lanes::$kernel::<$($parameter,)* N>(group, &x, $($argument),*),
                lanes::write
            })*
        }
    };
}

lanes! {
    Q4_0, q4_0: blocks_32[4](
        lanes::of_32::<BlockQ4_0>(), |b, g| b.codes_4(0, g), |b| b.scale_alone()
    );
    Q4_1, q4_1: blocks_32[5](
        lanes::of_32::<BlockQ4_1>(), |b, g| b.codes_4(1, g), |b| b.halves(0)
    );
    Q5_0, q5_0: blocks_32[5](
        lanes::of_32::<BlockQ5_0>(), |b, g| b.codes_5(1, g), |b| b.scale_alone()
    );
    Q5_1, q5_1: blocks_32[6](
        lanes::of_32::<BlockQ5_1>(), |b, g| b.codes_5(2, g), |b| b.halves(0)
    );
    Q8_0, q8_0: blocks_32[8](
        (size_of::<BlockQ8_0>(), 128, false), |b, g| b.codes_8(g), |b| b.scale_alone()
    );
    IQ4_NL, iq4_nl: blocks_32[4](
        (size_of::<BlockIQ4NL>(), 128, false), |b, g| b.iq4(0, g), |b| b.scale_alone()
    );
    MXFP4, mxfp4: blocks_32[4](
        lanes::of_32::<BlockMXFP4>(), |b, g| b.mxfp4(g), |b| b.exponent_alone()
    );
    Q1_0, q1_0: blocks_16[BlockQ1_0, 4](
        |b, j, g| lanes::parts::q1_0(b, j, g), |b| [b.half(); 4]
    );
    Q2_0, q2_0: blocks_16[BlockQ2_0, 4](
        |b, j, g| lanes::parts::q2_0(b, j, g), |b| [b.half(); 4]
    );
    NVFP4, nvfp4: blocks_16[BlockNVFP4, 9](
        |b, j, g| lanes::parts::nvfp4(b, j, g), |b| b.four_scales(0)
    );
    Q2_K, q2_k: blocks_256[BlockQ2K, 21](
        |b, j, g| lanes::super_block::q2_k(b, j, g), |b| lanes::scales::q2_k(b)
    );
    Q3_K, q3_k: blocks_256[BlockQ3K, 27](
        |b, j, g| lanes::super_block::q3_k(b, j, g), |b| lanes::scales::q3_k(b)
    );
    Q4_K, q4_k: blocks_256[BlockQ4K, 36](
        |b, j, g| lanes::super_block::q4_k(b, j, g), |b| lanes::scales::six_bits(b)
    );
    Q5_K, q5_k: blocks_256[BlockQ5K, 44](
        |b, j, g| lanes::super_block::q5_k(b, j, g), |b| lanes::scales::six_bits(b)
    );
    TQ1_0, tq1_0: blocks_256[BlockTQ1_0, 13](
        |b, j, g| lanes::super_block::tq1_0(b, j, g), |b| lanes::scales::of_one(b)
    );
    TQ2_0, tq2_0: blocks_256[BlockTQ2_0, 16](
        |b, j, g| lanes::super_block::tq2_0(b, j, g), |b| lanes::scales::of_one(b)
    );
    IQ4_XS, iq4_xs: blocks_256[BlockIQ4XS, 34](
        |b, j, g| lanes::super_block::iq4_xs(b, j, g), |b| lanes::scales::iq4_xs(b)
    );
    IQ1_S, iq1_s: blocks_256[ExpandedIQ1S, 35](
        |b, j, g| lanes::expanded::<BlockIQ1S, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
    IQ1_M, iq1_m: blocks_256[ExpandedIQ1M, 37](
        |b, j, g| lanes::expanded::<BlockIQ1M, 16, 37>(b, j, g),
        |b| lanes::expanded_scales::<16, 37>(b)
    );
    IQ2_XXS, iq2_xxs: blocks_256[ExpandedIQ2XXS, 35](
        |b, j, g| lanes::expanded::<BlockIQ2XXS, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
    IQ2_XS, iq2_xs: blocks_256[ExpandedIQ2XS, 37](
        |b, j, g| lanes::expanded::<BlockIQ2XS, 16, 37>(b, j, g),
        |b| lanes::expanded_scales::<16, 37>(b)
    );
    IQ2_S, iq2_s: blocks_256[ExpandedIQ2S, 37](
        |b, j, g| lanes::expanded::<BlockIQ2S, 16, 37>(b, j, g),
        |b| lanes::expanded_scales::<16, 37>(b)
    );
    IQ3_XXS, iq3_xxs: blocks_256[ExpandedIQ3XXS, 35](
        |b, j, g| lanes::expanded::<BlockIQ3XXS, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
    IQ3_S, iq3_s: blocks_256[ExpandedIQ3S, 35](
        |b, j, g| lanes::expanded::<BlockIQ3S, 8, 35>(b, j, g),
        |b| lanes::expanded_scales::<8, 35>(b)
    );
}
