//! Reading and writing blocks: the code of `crate::block`, compiled once more with the level's
//! instructions, so that its loops become wider vectors.
//!
//! The bits are the same: compilers keep the order of float operations and fuse none. All that such
//! code calls in its loops has to be inlined into it, or it runs as it was compiled for any CPU.

use crate::block::{self, *};
use crate::table::{Blocks, QuantizeFn};
use gguf_rs_lite::GgmlType;

macro_rules! rows {
    ($($(#[$cfg:meta])* $file:ident::$block:ident: $shape:ident;)*) => {
        /// Every type.
        pub(super) const BLOCKS: &[(GgmlType, Blocks)] =
            &[$($(#[$cfg])* ($block::TY, blocks::<$block>()),)*];
    };
}
weight_types!(rows);

const fn blocks<B: Quantize>() -> Blocks {
    Blocks { dequantize: dequantize::<B>, quantize: quantize::<B> as QuantizeFn }
}

fn dequantize<B: Block>(blocks: &[u8], out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled<B: Block>(blocks: &[u8], out: &mut [f32]) {
        block::dequantize_row::<B>(blocks, out);
    }
    // SAFETY: the CPU has the features, see the head of the file above.
    unsafe { compiled::<B>(blocks, out) }
}

fn quantize<B: Quantize>(x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled<B: Quantize>(x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        block::quantize_row::<B>(x, importance, blocks);
    }
    // SAFETY: the CPU has the features, see the head of the file above.
    unsafe { compiled::<B>(x, importance, blocks) }
}
