//! SSE4.1 and SSSE3, for x86-64 without AVX2: the table, and safe entries to the kernels.
//!
//! An entry's one `unsafe` calls a function of the two features. It is sound because entries leave
//! this file only inside [`TABLE`], and that only against an [`Sse41`] token.
//!
//! Every integer type runs through its scalar `unpack`, which the compiler vectorizes with these
//! features; float operations other than dots and weighted sums are the scalar ones.

mod float;
mod fma;
mod matmul;
mod mem;

use crate::act::{self, Acts, Words};
use crate::block::*;
use crate::float::Ahead;
use crate::isa::Level;
use crate::isa::detect::Sse41;
use crate::table::{
    FloatOps, KernelTable, MatmulFn, SCALAR_FLOAT, Scratch, TypeKernels, blocks_16, blocks_32,
    blocks_256, floats, read_only_256,
};

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: Sse41) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable = KernelTable {
    level: Level::Sse41,
    types: &TYPES,
    float: FLOAT,
    pack: act::pack,
    words: Words::Plus128,
};

static TYPES: [TypeKernels; 28] = [
    on_sse41(floats::<F32>(), matmul_float::<F32>),
    on_sse41(floats::<F16>(), matmul_float::<F16>),
    on_sse41(floats::<Bf16>(), matmul_float::<Bf16>),
    on_sse41(blocks_32::<BlockQ4_0>(), matmul_32::<BlockQ4_0>),
    on_sse41(blocks_32::<BlockQ4_1>(), matmul_32::<BlockQ4_1>),
    on_sse41(blocks_32::<BlockQ5_0>(), matmul_32::<BlockQ5_0>),
    on_sse41(blocks_32::<BlockQ5_1>(), matmul_32::<BlockQ5_1>),
    on_sse41(blocks_32::<BlockQ8_0>(), matmul_32::<BlockQ8_0>),
    on_sse41(blocks_32::<BlockIQ4NL>(), matmul_32::<BlockIQ4NL>),
    on_sse41(blocks_32::<BlockMXFP4>(), matmul_32::<BlockMXFP4>),
    on_sse41(blocks_256::<BlockQ2K>(), matmul_256::<BlockQ2K>),
    on_sse41(blocks_256::<BlockQ3K>(), matmul_256::<BlockQ3K>),
    on_sse41(blocks_256::<BlockQ4K>(), matmul_256::<BlockQ4K>),
    on_sse41(blocks_256::<BlockQ5K>(), matmul_256::<BlockQ5K>),
    on_sse41(blocks_256::<BlockQ6K>(), matmul_256::<BlockQ6K>),
    on_sse41(blocks_256::<BlockIQ4XS>(), matmul_256::<BlockIQ4XS>),
    on_sse41(blocks_256::<BlockTQ1_0>(), matmul_256::<BlockTQ1_0>),
    on_sse41(blocks_256::<BlockTQ2_0>(), matmul_256::<BlockTQ2_0>),
    on_sse41(read_only_256::<BlockIQ1S>(), matmul_256::<BlockIQ1S>),
    on_sse41(read_only_256::<BlockIQ1M>(), matmul_256::<BlockIQ1M>),
    on_sse41(read_only_256::<BlockIQ2XXS>(), matmul_256::<BlockIQ2XXS>),
    on_sse41(read_only_256::<BlockIQ2XS>(), matmul_256::<BlockIQ2XS>),
    on_sse41(read_only_256::<BlockIQ2S>(), matmul_256::<BlockIQ2S>),
    on_sse41(read_only_256::<BlockIQ3XXS>(), matmul_256::<BlockIQ3XXS>),
    on_sse41(read_only_256::<BlockIQ3S>(), matmul_256::<BlockIQ3S>),
    blocks_16::<BlockQ1_0>(),
    blocks_16::<BlockQ2_0>(),
    blocks_16::<BlockNVFP4>(),
];

const fn on_sse41(scalar: TypeKernels, matmul: MatmulFn) -> TypeKernels {
    TypeKernels { level: Level::Sse41, matmul, ..scalar }
}

fn matmul_32<B: Block32>(w: &[u8], n_rows: usize, acts: &Acts<'_>, _: &mut Scratch, y: &mut [f32]) {
    // SAFETY: the CPU has the features, see the head of this file.
    unsafe { matmul::blocks_32::<B>(w, n_rows, acts, y) }
}

fn matmul_256<B: Block256>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    // SAFETY: the CPU has the features, see the head of this file.
    unsafe { matmul::blocks_256::<B>(w, n_rows, acts, y) }
}

fn matmul_float<W: Float>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    // SAFETY: the CPU has the features, see the head of this file.
    unsafe { matmul::float::<W>(w, n_rows, acts, y) }
}

macro_rules! float_ops {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?;)*) => {
        const FLOAT: FloatOps = FloatOps {
            $($name: {
                fn entry($($arg: $ty),*) $(-> $out)? {
                    // SAFETY: the CPU has the features, see the head of this file.
                    unsafe { float::$name($($arg),*) }
                }
                entry
            },)*
            ..SCALAR_FLOAT
        };
    };
}

float_ops! {
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
}
