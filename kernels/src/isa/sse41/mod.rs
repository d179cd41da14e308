//! SSE4.1 and SSSE3, for x86-64 without AVX2: the table, and safe entries to the kernels.
//!
//! An entry's one `unsafe` calls a function of the two features. It is sound because entries leave
//! this file only inside [`TABLE`], and that only against the level's token.
//!
//! Every integer type runs through its scalar `unpack`, which the compiler vectorizes with these
//! features; float operations other than dots and weighted sums are the scalar ones.

mod float;
mod fma;
mod matmul;
mod mem;

use super::scalar::{self, N_TYPES};
use crate::act::{self, Acts, PanelOrder, ROWS_MAX};
use crate::block::*;
use crate::float::{Ahead, FloatOps};
use crate::isa::detect::{Level, token};
use crate::table::{KernelTable, MatmulFn, Scratch, TypeKernels, overlaid};
use gguf_rs_lite::GgmlType;

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: token::Sse41) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable = KernelTable {
    level: Level::Sse41,
    types: &TYPES,
    sparse: &[],
    float: FLOAT,
    pack: act::pack,
    order: PanelOrder::Plus128,
    interleaved_rows_max: ROWS_MAX,
};

macro_rules! matmuls {
    ($($(#[$cfg:meta])* $file:ident::$block:ident: $shape:ident;)*) => {
        /// Every type by its shape, whatever it is.
        const MATMULS: &[(GgmlType, MatmulFn)] =
            &[$($(#[$cfg])* ($block::TY, $shape::<$block> as MatmulFn),)*];
    };
}
weight_types!(matmuls);

pub(in crate::isa) const TYPES: [TypeKernels; N_TYPES] =
    overlaid(Level::Sse41, scalar::TYPES, MATMULS, &[]);

macro_rules! entries {
    ($($name:ident: $kernel:ident<$bound:ident>;)*) => {$(
        fn $name<B: $bound>(
            w: &[u8],
            n_rows: usize,
            acts: &Acts<'_>,
            _: &mut Scratch,
            y: &mut [f32],
        ) {
            // SAFETY: the CPU has the features, see the head of this file.
            unsafe { matmul::$kernel::<B>(w, n_rows, acts, y) }
        }
    )*};
}

entries! {
    floats: float<Float>;
    blocks_16: blocks_16<Block16>;
    blocks_32: blocks_32<Block32>;
    blocks_256: blocks_256<Block256>;
    codebook_256: blocks_256<Block256>;
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
            ..FloatOps::SCALAR
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
