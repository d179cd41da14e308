//! Matrices of floats that lie on a grid, such as those of models that were trained for a few bits: they
//! get the type that has their codes.

use super::dtype::Dtype;
use super::plan::{Output, Piece, is_plain};
use super::safetensors::Tensors;
use super::{ConvertError, TargetType, stream};
use crate::grid::{self, Precision};
use crate::model::checkpoint::Op;
use gguf_rs_lite::GgmlType;

/// Looks for grids in all matrices of floats; a type that was asked for gets codes only if it has them.
///
/// # Errors
/// A file cannot be read.
pub(super) fn find(
    tensors: &Tensors,
    outputs: &mut [Output],
    wanted: Option<TargetType>,
) -> Result<(), ConvertError> {
    let types = match wanted {
        None => grid::TYPES,
        Some(TargetType::Q8_0) => &[GgmlType::Q8_0],
        Some(TargetType::F32 | TargetType::F16 | TargetType::Bf16) => return Ok(()),
    };
    for output in outputs {
        let Some(precision) = precision(tensors, output) else { continue };
        let cols = output.shape.last().copied().unwrap_or(1) as usize;
        output.grid =
            grid::find(cols, precision, types, &mut |take| stream::rows(tensors, output, take))?;
        if let Some(found) = &output.grid {
            output.ty = found.ty;
        }
    }
    Ok(())
}

/// The type of floats of a matrix that may lie on a grid: all of one, as they are.
fn precision(tensors: &Tensors, output: &Output) -> Option<Precision> {
    let is_as_it_was = |piece: &Piece| piece.scale == 1.0 && piece.blocks.is_none();
    let has_own = matches!(output.op, Op::Same | Op::Ternary);
    let is_matrix = !is_plain(output) && output.repack.is_none() && has_own;
    let all = output.pieces.iter().map(|piece| tensors.all()[piece.tensor].dtype);
    let dtype = all.reduce(|a, b| if a == b { a } else { Dtype::Bool })?;
    let may_be = is_matrix && output.pieces.iter().all(is_as_it_was);
    match dtype {
        Dtype::F32 if may_be => Some(Precision::F32),
        Dtype::F16 if may_be => Some(Precision::F16),
        Dtype::BF16 if may_be => Some(Precision::Bf16),
        _ => None,
    }
}
