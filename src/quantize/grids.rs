//! Tensors whose values lie on a grid that a type has: they keep their codes, whatever the method.

use super::error::QuantizeError;
use super::mix::{self, Facts, Shape};
use super::plan::Options;
use super::planned::Planned;
use super::rows::check_finite;
use crate::grid::{self, Found, Precision, Qat};
use crate::tensor::memory::reserve;
use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo};

/// Hears of a tensor that was looked at, how many were and of how many; whether to go on.
pub(super) type Look<'l> = dyn FnMut(&TensorInfo, usize, usize) -> bool + 'l;

/// Elements that are looked at at a time, of which the first may be enough.
const LOOK_ELEMENTS: usize = 1 << 16;

/// The grid of a tensor, of the first of these types that has its codes.
///
/// # Errors
/// Its type cannot be read, or a weight is NaN or infinite.
pub(super) fn find(
    file: &GgufFile,
    info: &TensorInfo,
    types: &[GgmlType],
    options: &Options,
) -> Result<Option<Found>, QuantizeError> {
    let name = || info.name.clone();
    let kernels = options.kernels.types(info.ty);
    let kernels = kernels.ok_or_else(|| QuantizeError::CannotRead { name: name(), ty: info.ty })?;
    let precision = match info.ty {
        GgmlType::F16 => Precision::F16,
        GgmlType::BF16 => Precision::Bf16,
        _ => Precision::F32,
    };
    let (cols, rows) = (info.cols() as usize, info.rows() as usize);
    let data = file.data(info);
    let row_bytes = data.len() / rows.max(1);
    let at_once = (LOOK_ELEMENTS / cols.max(1)).clamp(1, rows.max(1));
    let mut values: Vec<f32> = Vec::new();
    reserve(&mut values, at_once * cols, "rows of weights")?;
    values.resize(at_once * cols, 0.0);
    grid::find(cols, precision, types, &mut |take| {
        for first in (0..rows).step_by(at_once) {
            let n = at_once.min(rows - first);
            let (values, bytes) =
                (&mut values[..n * cols], first * row_bytes..(first + n) * row_bytes);
            kernels.dequantize(&data[bytes.clone()], values);
            check_finite(&info.name, first as u64, values)?;
            let goes_on = take(values);
            file.release(info, bytes);
            if !goes_on {
                break;
            }
        }
        Ok(())
    })
}

/// Has tensors that lie on a grid get the type that has its codes, where none is named for them. `on` hears of
/// each that is looked at, as by [`Plan::watched`](super::Plan::watched).
///
/// # Errors
/// As [`find`], or `on` says to stop.
pub(super) fn types(
    file: &GgufFile,
    options: &Options,
    shapes: &[Shape<'_>],
    choices: &mut [mix::Choice],
    on: &mut Look<'_>,
) -> Result<Vec<Option<Found>>, QuantizeError> {
    let facts = Facts::of(file)?;
    let mut all = Vec::with_capacity(choices.len());
    let n = shapes.len();
    for ((info, shape), choice) in file.tensors().iter().zip(shapes).zip(choices) {
        let is_open = info.ty.block_len() == 1
            && choice.ty == info.ty
            && mix::may_change(&facts, &options.wishes, shape);
        let found = match is_open {
            true => find(file, info, grid::TYPES, options)?,
            false => None,
        };
        if let Some(found) = &found {
            *choice = mix::Choice { ty: found.ty, wanted: found.ty };
        }
        all.push(found);
        if !on(info, all.len(), n) {
            return Err(QuantizeError::Cancelled);
        }
    }
    Ok(all)
}

/// Finds the grids of tensors that are made: they keep their codes by every method, those that see a text, too.
/// `on` hears of each that is looked at.
///
/// # Errors
/// As [`types`].
pub(super) fn of_made(
    file: &GgufFile,
    options: &Options,
    tensors: &mut [Planned<'_>],
    on: &mut Look<'_>,
) -> Result<(), QuantizeError> {
    let n = tensors.len();
    let all = tensors.iter_mut().enumerate().filter(|_| options.qat == Qat::Auto);
    let is_made = |t: &Planned<'_>| !t.is_copied() && t.pruning.is_none() && t.grid.is_none();
    for (number, tensor) in all.filter(|(_, tensor)| is_made(tensor)) {
        tensor.grid = find(file, tensor.info, &[tensor.ty], options)?;
        if !on(tensor.info, number + 1, n) {
            return Err(QuantizeError::Cancelled);
        }
    }
    Ok(())
}
