//! Bytes of the result, a tensor at a time: read, laid anew, changed, checked and encoded in
//! pieces, so
//! that memory does not grow with tensors. Only a matrix that is transposed is held whole.

use super::ConvertError;
use super::dtype::{Dtype, power};
use super::packed::{self, Repack};
use super::plan::{Output, Piece};
use super::safetensors::{Tensor, Tensors};
use crate::grid::Take;
use crate::model::checkpoint::Op;
use crate::receipt::{Loss, loss_of};
use gguf_rs_lite::GgmlType;
use teff_kernels::KernelTable;

/// Elements that are converted at a time: 4 MiB in f32.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// Elements that are looked at at a time, of which the first may be enough.
const LOOK_ELEMENTS: usize = 1 << 16;

/// Takes the bytes of a tensor, a part at a time.
pub(super) type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), ConvertError> + 's;

/// Gives all bytes of one tensor of the result. Returns what was lost of its numbers, as they are once they
/// are changed, in its type, if that is asked.
///
/// # Errors
/// A file cannot be read, a number is not finite or does not fit the type, or `sink` says so.
pub(super) fn stream(
    tensors: &Tensors,
    output: &Output,
    measures: bool,
    sink: &mut Sink<'_>,
) -> Result<Loss, ConvertError> {
    if let Some(Repack::Codes(_)) = output.repack {
        return packed::stream(tensors, output, measures, sink);
    }
    let measures = measures && !is_exact(tensors, output);
    let mut encoder = Encoder {
        output,
        scale: 1.0,
        row: Vec::new(),
        bytes: Vec::new(),
        done: 0,
        lost: measures.then(|| (Loss::default(), Vec::new())),
    };
    if let Some(values) = &output.values {
        encoder.take(values, &output.name, sink)?;
    }
    for piece in &output.pieces {
        let tensor = &tensors.all()[piece.tensor];
        encoder.scale = piece.scale;
        let take = &mut |values: &[f32]| encoder.take(values, &tensor.name, sink);
        read_piece(tensors, tensor, piece, CHUNK_ELEMENTS, take)?;
    }
    Ok(encoder.lost.map_or_else(Loss::default, |lost| lost.0))
}

/// Whether a tensor's type holds all of its numbers, whatever they are.
fn is_exact(tensors: &Tensors, output: &Output) -> bool {
    let dtype = match output.ty {
        GgmlType::F32 => return true,
        GgmlType::F16 => Dtype::F16,
        GgmlType::BF16 => Dtype::BF16,
        _ => return false,
    };
    let is_same = |piece: &Piece| {
        let is_as_it_was = piece.scale == 1.0 && piece.blocks.is_none();
        is_as_it_was && tensors.all()[piece.tensor].dtype == dtype
    };
    let has_own = matches!(output.op, Op::Same | Op::Ternary);
    has_own && output.values.is_none() && output.pieces.iter().all(is_same)
}

/// Gives the rows of one tensor of the result, some at a time, until `take` wants no more. They are as the
/// checkpoint has them, or ternary where they become so.
///
/// # Errors
/// A file cannot be read.
pub(super) fn rows(
    tensors: &Tensors,
    output: &Output,
    take: &mut Take<'_>,
) -> Result<(), ConvertError> {
    let mut is_enough = false;
    for piece in &output.pieces {
        let tensor = &tensors.all()[piece.tensor];
        let mut made = Vec::new();
        let read = read_piece(tensors, tensor, piece, LOOK_ELEMENTS, &mut |values| {
            is_enough = !match output.ternary {
                None => take(values),
                Some(ternary) => {
                    made.clear();
                    made.extend(values.iter().map(|&x| ternary.of(x)));
                    take(&made)
                }
            };
            if is_enough { Err(ConvertError::Cancelled) } else { Ok(()) }
        });
        if is_enough {
            break;
        }
        read?;
    }
    Ok(())
}

/// The one number of a tensor.
///
/// # Errors
/// The file cannot be read, or there are more.
pub(super) fn number(tensors: &Tensors, tensor: &Tensor) -> Result<f32, ConvertError> {
    let mut bytes = vec![0; tensor.dtype.bytes()];
    let mut values = Vec::new();
    if tensor.bytes == bytes.len() as u64 {
        tensors.read(tensor, 0, &mut bytes)?;
        tensor.dtype.widen(&bytes, &mut values);
    }
    values.first().copied().ok_or_else(|| ConvertError::Shape {
        tensor: tensor.name.clone(),
        shape: tensor.shape.clone(),
        problem: "not one number".into(),
    })
}

struct Encoder<'a> {
    output: &'a Output,
    /// Factor of the elements.
    scale: f32,
    /// Elements after their change.
    row: Vec<f32>,
    bytes: Vec<u8>,
    /// Elements so far.
    done: u64,
    /// What was lost, and room for values that are read back, if it is measured.
    lost: Option<(Loss, Vec<f32>)>,
}

impl Encoder<'_> {
    /// Changes and encodes whole rows of elements.
    fn take(
        &mut self,
        values: &[f32],
        source: &str,
        sink: &mut Sink<'_>,
    ) -> Result<(), ConvertError> {
        self.row.clear();
        let ternary = self.output.ternary;
        self.row.extend(values.iter().map(|&x| match self.output.op {
            Op::Same => x * self.scale,
            Op::Ternary => ternary.expect("settled before anything is written").of(x),
            Op::PlusOne => x + 1.0,
            Op::PlusFifth(n) => x + 0.2_f64.powf(f64::from(n) / 2.0) as f32,
            Op::NegExp => -x.exp(),
            Op::Exp => x.exp(),
        }));
        let ty = self.output.ty;
        let max = if ty == GgmlType::F16 { half::f16::MAX.to_f32() } else { f32::MAX };
        // Scales of blocks are f16 and hold a 127th of the largest element.
        let max = if ty == GgmlType::Q8_0 { half::f16::MAX.to_f32() * 127.0 } else { max };
        if let Some(i) = self.row.iter().position(|x| x.is_nan() || x.abs() > max) {
            return Err(ConvertError::NotFinite {
                tensor: source.to_owned(),
                index: self.done + i as u64,
                value: values[i],
                ty: ty.to_string(),
            });
        }
        self.done += values.len() as u64;
        self.bytes.clear();
        match ty {
            GgmlType::F32 => self.bytes.extend(self.row.iter().flat_map(|x| x.to_le_bytes())),
            GgmlType::F16 => {
                let half = |x: &f32| half::f16::from_f32(*x).to_le_bytes();
                self.bytes.extend(self.row.iter().flat_map(half));
            }
            GgmlType::BF16 => {
                let half = |x: &f32| half::bf16::from_f32(*x).to_le_bytes();
                self.bytes.extend(self.row.iter().flat_map(half));
            }
            ty => {
                let kernels = KernelTable::detect().types(ty).expect("every type has kernels");
                let len = ty.bytes_of(self.row.len() as u64).expect("whole blocks");
                self.bytes.resize(len as usize, 0);
                if let Some(found) = &self.output.grid {
                    let encoder = kernels.encoder().expect("types of grids have encoders");
                    if !found.encode(encoder, &self.row, &mut self.bytes) {
                        let problem = "its values have changed while it was read".into();
                        return Err(ConvertError::Unpackable { tensor: source.into(), problem });
                    }
                } else {
                    let encoded = kernels.quantize(&self.row, None, &mut self.bytes);
                    encoded.expect("targets have quantizers");
                }
            }
        }
        if let Some((loss, back)) = &mut self.lost {
            let kernels = KernelTable::detect().types(ty).expect("every type has kernels");
            back.resize(self.row.len(), 0.0);
            kernels.dequantize(&self.bytes, back);
            loss.add(loss_of(&self.row, back));
        }
        sink(&self.bytes)
    }
}

/// Takes whole rows of elements.
type Rows<'s> = dyn FnMut(&[f32]) -> Result<(), ConvertError> + 's;

fn read_piece(
    tensors: &Tensors,
    tensor: &Tensor,
    piece: &Piece,
    elements: usize,
    take: &mut Rows<'_>,
) -> Result<(), ConvertError> {
    if tensors.packed(tensor).is_some() {
        return read_grid(tensors, tensor, piece, take);
    }
    let [mats, rows, cols] = piece.view.map(|n| n as usize);
    let no_weights = || ConvertError::Type {
        tensor: tensor.name.clone(),
        ty: format!("{:?}", tensor.dtype),
        problem: "no type of weights",
    };
    let size = tensor.dtype.bytes();
    let factors = factors(tensors, piece)?;
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    if piece.transposed {
        let (n_rows, n_cols) = (piece.rows() as usize, piece.cols() as usize);
        let wanted: Vec<Vec<usize>> = match &piece.pick {
            None => (0..mats).map(|_| (0..n_rows).collect()).collect(),
            Some(pick) => {
                let mut of_mats = vec![Vec::new(); mats];
                pick.iter().for_each(|&r| of_mats[r as usize / n_rows].push(r as usize % n_rows));
                of_mats
            }
        };
        let columns: Vec<usize> = match &piece.columns {
            None => (0..n_cols).collect(),
            Some(columns) => columns.iter().map(|&c| c as usize).collect(),
        };
        for (mat, wanted) in wanted.iter().enumerate() {
            bytes.resize(rows * cols * size, 0);
            tensors.read(tensor, (mat * rows * cols * size) as u64, &mut bytes)?;
            values.clear();
            if !tensor.dtype.widen(&bytes, &mut values) {
                return Err(no_weights());
            }
            multiply(&mut values, mat * rows, cols, piece, &factors);
            let at_once = (elements / columns.len().max(1)).max(1);
            for some in wanted.chunks(at_once) {
                let row = |&r: &usize| columns.iter().map(move |&c| (r, c));
                let turned = some.iter().flat_map(row).map(|(r, c)| values[c * cols + r]);
                take(&turned.collect::<Vec<f32>>())?;
            }
        }
        return Ok(());
    }
    let all = 0..(mats * rows) as u32;
    let runs = match &piece.pick {
        None => vec![all],
        Some(pick) => runs(pick),
    };
    // Runs are read into one buffer until it is full: they may be single rows.
    let at_once = (elements / cols.max(1)).max(1);
    let mut picked = Vec::new();
    for run in runs {
        let mut start = run.start as usize;
        while start < run.end as usize {
            let n = (run.end as usize - start).min(at_once - values.len() / cols);
            bytes.resize(n * cols * size, 0);
            tensors.read(tensor, (start * cols * size) as u64, &mut bytes)?;
            let before = values.len();
            if !tensor.dtype.widen(&bytes, &mut values) {
                return Err(no_weights());
            }
            multiply(&mut values[before..], start, cols, piece, &factors);
            start += n;
            if values.len() / cols == at_once {
                give(&mut values, cols, piece, &mut picked, take)?;
            }
        }
    }
    if values.is_empty() { Ok(()) } else { give(&mut values, cols, piece, &mut picked, take) }
}

/// The rows of a matrix of codes.
fn read_grid(
    tensors: &Tensors,
    tensor: &Tensor,
    piece: &Piece,
    take: &mut Rows<'_>,
) -> Result<(), ConvertError> {
    let grid = tensors.grid(tensor)?;
    let is_turned = tensors.packed(tensor).is_some_and(|packed| packed.turned);
    if is_turned != piece.transposed {
        return Err(ConvertError::Shape {
            tensor: tensor.name.clone(),
            shape: tensor.shape.clone(),
            problem: "codes are not transposed".into(),
        });
    }
    let all: Vec<u32> = (0..grid.rows as u32).collect();
    let rows = piece.pick.as_ref().unwrap_or(&all);
    let (mut values, mut picked) = (Vec::new(), Vec::new());
    for some in rows.chunks((CHUNK_ELEMENTS / grid.cols).max(1)) {
        some.iter().for_each(|&row| grid.widen(row as usize, &mut values));
        give(&mut values, grid.cols, piece, &mut picked, take)?;
    }
    Ok(())
}

/// The factors of a quantized matrix's blocks.
fn factors(tensors: &Tensors, piece: &Piece) -> Result<Vec<f32>, ConvertError> {
    let Some(blocks) = &piece.blocks else { return Ok(Vec::new()) };
    let tensor = &tensors.all()[blocks.tensor];
    let mut bytes = vec![0; tensor.bytes as usize];
    tensors.read(tensor, 0, &mut bytes)?;
    let mut factors = Vec::new();
    if tensor.dtype == Dtype::U8 {
        factors.extend(bytes.into_iter().map(power));
    } else if !tensor.dtype.widen(&bytes, &mut factors) {
        return Err(ConvertError::Type {
            tensor: tensor.name.clone(),
            ty: format!("{:?}", tensor.dtype),
            problem: "no type of factors",
        });
    }
    Ok(factors)
}

/// Multiplies the rows from `row` on by the factors of their blocks.
fn multiply(values: &mut [f32], row: usize, cols: usize, piece: &Piece, factors: &[f32]) {
    let Some(blocks) = &piece.blocks else { return };
    let [block_rows, block_cols] = blocks.size.map(|n| n as usize);
    for (i, values) in values.chunks_exact_mut(cols).enumerate() {
        let first = (row + i) / block_rows * blocks.across as usize;
        for (j, values) in values.chunks_mut(block_cols).enumerate() {
            values.iter_mut().for_each(|x| *x *= factors[first + j]);
        }
    }
}

/// Hands rows on, with their columns picked.
fn give(
    values: &mut Vec<f32>,
    cols: usize,
    piece: &Piece,
    picked: &mut Vec<f32>,
    take: &mut Rows<'_>,
) -> Result<(), ConvertError> {
    match &piece.columns {
        None => take(values)?,
        Some(columns) => {
            picked.clear();
            for row in values.chunks_exact(cols) {
                picked.extend(columns.iter().map(|&c| row[c as usize]));
            }
            take(picked)?;
        }
    }
    values.clear();
    Ok(())
}

/// Runs of neighbours.
fn runs(pick: &[u32]) -> Vec<std::ops::Range<u32>> {
    let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
    for &row in pick {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_together() {
        assert_eq!(runs(&[0, 1, 2, 7, 8, 3]), [0..3, 7..9, 3..4]);
        assert!(runs(&[]).is_empty());
    }
}
