//! Matrix products for any CPU: every block unpacked once, then walked by all tokens.
//!
//! The specification of the integer levels (bit for bit) and of the float ones.

use crate::act::{self, ActFormat, Acts, PanelOrder, ROWS_MAX};
use crate::block::{
    self, Block, Block16, Block32, Block256, Encode, Encoder, Float, Quantize, as_blocks,
    dot_float, weight_types,
};
use crate::float::FloatOps;
use crate::isa::detect::{Level, token};
use crate::table::{KernelTable, MatmulFn, QuantizeFn, Scratch, TypeKernels};

/// The table, for any CPU.
pub(crate) fn table(_: token::Scalar) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable = KernelTable {
    level: Level::Scalar,
    types: LIST,
    sparse: &[],
    float: FloatOps::SCALAR,
    pack: act::pack,
    order: PanelOrder::Plus128,
    interleaved_rows_max: ROWS_MAX,
};

macro_rules! entries {
    ($($(#[$cfg:meta])* $file:ident::$block:ident: $shape:ident;)*) => {
        const LIST: &[TypeKernels] = &[$($(#[$cfg])* $shape::<block::$block>(),)*];
    };
}
weight_types!(entries);

/// How many weight types there are.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) const N_TYPES: usize = LIST.len();

/// Every weight type through its scalar form: what the lowest level is laid over.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) const TYPES: [TypeKernels; N_TYPES] = *LIST.first_chunk().expect("a chunk of all");

const fn floats<W: Float + Quantize>() -> TypeKernels {
    kernels::<W>(ActFormat::F32, matmul_float::<W>, Some(block::quantize_row::<W>))
}

const fn blocks_16<B: Block16 + Encode>() -> TypeKernels {
    encoded::<B>(matmul_16::<B>)
}

const fn blocks_32<B: Block32 + Encode>() -> TypeKernels {
    encoded::<B>(matmul_32::<B>)
}

const fn blocks_256<B: Block256 + Encode>() -> TypeKernels {
    encoded::<B>(matmul_256::<B>)
}

/// A type of points of a codebook, which has no codes of single elements.
const fn codebook_256<B: Block256 + Quantize>() -> TypeKernels {
    kernels::<B>(ActFormat::Q8x32, matmul_256::<B>, Some(block::quantize_row::<B>))
}

/// A type of codes and scales that can be written.
const fn encoded<B: Encode>(matmul: MatmulFn) -> TypeKernels {
    let kernels = kernels::<B>(ActFormat::Q8x32, matmul, Some(block::quantize_row::<B>));
    TypeKernels { encoder: Some(Encoder::of::<B>()), ..kernels }
}

const fn kernels<B: Block>(
    act: ActFormat,
    matmul: MatmulFn,
    quantize: Option<QuantizeFn>,
) -> TypeKernels {
    let dequantize = block::dequantize_row::<B>;
    let level = Level::Scalar;
    let (encoder, interleaved) = (None, None);
    TypeKernels {
        ty: B::TY,
        level,
        act,
        matmul,
        dequantize,
        quantize,
        encoder,
        interleaved,
        rows_max: ROWS_MAX,
    }
}

/// Weights in blocks of 32.
pub(crate) fn matmul_32<B: Block32>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    y.fill(0.0);
    for (r, row) in as_blocks::<B>(w).chunks_exact(acts.plan.blocks()).enumerate() {
        for (b, block) in row.iter().enumerate() {
            let block = block.unpack();
            for (t, y) in y[r..].iter_mut().step_by(n_rows).enumerate() {
                *y = block.step::<B>(*y, &acts.block(t, b));
            }
        }
    }
}

/// Weights in blocks of several times 32.
pub(crate) fn matmul_16<B: Block16>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    y.fill(0.0);
    let parts = B::LEN / 32;
    for (r, row) in as_blocks::<B>(w).chunks_exact(acts.plan.blocks() / parts).enumerate() {
        for b in 0..acts.plan.blocks() {
            let block = row[b / parts].unpack(b % parts);
            for (t, y) in y[r..].iter_mut().step_by(n_rows).enumerate() {
                *y = block.step(*y, &acts.block(t, b));
            }
        }
    }
}

/// Weights in super-blocks of 256.
pub(crate) fn matmul_256<B: Block256>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    y.fill(0.0);
    for (r, row) in as_blocks::<B>(w).chunks_exact(acts.plan.blocks() / 8).enumerate() {
        for (b, block) in row.iter().enumerate() {
            let block = block.unpack();
            for (t, y) in y[r..].iter_mut().step_by(n_rows).enumerate() {
                *y = block.step::<B>(*y, &std::array::from_fn(|j| acts.block(t, 8 * b + j)));
            }
        }
    }
}

/// Float weights.
pub(crate) fn matmul_float<W: Float>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    let cols = acts.plan.cols;
    for (r, row) in as_blocks::<W>(w).chunks_exact(cols).enumerate() {
        for (t, x) in acts.x.chunks_exact(cols).enumerate() {
            y[t * n_rows + r] = dot_float(row, x);
        }
    }
}
