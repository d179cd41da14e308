//! Tensors of a file to be, and how a row of one becomes blocks.

use super::at_inputs::OutputLoss;
use super::error::QuantizeError;
use super::method::Method;
use super::prune::Pruning;
use super::zeros::{self, KeepZeros};
use crate::grid::{self, Found};
use crate::receipt::{Loss, loss_of};
use crate::tensor::Weight;
use gguf_rs_lite::{GgmlType, TensorInfo};
use std::borrow::Cow;
use teff_kernels::{KernelTable, NoEncoder, TypeKernels};

/// A tensor of the file to be.
#[derive(Debug)]
pub struct Planned<'a> {
    /// The tensor as it is.
    pub info: &'a TensorInfo,
    /// Type that it gets.
    pub ty: GgmlType,
    /// Type that it would have got, were its rows a multiple of that type's block.
    pub wanted: GgmlType,
    /// Bytes that it will have.
    pub bytes: u64,
    /// How its codes are found: as wanted, or by the default method where that has no way.
    pub method: &'static Method,
    /// How weights of it become zero, if they do.
    pub pruning: Option<&'a Pruning>,
    /// Which of its zeros stay zeros.
    pub(crate) keep_zeros: KeepZeros,
    /// Importances, `[matrices][columns]`.
    pub(super) importances: Option<Vec<f32>>,
    /// The grid that its values lie on, whose codes it keeps.
    pub grid: Option<Found>,
    /// Blocks that a method that sees a text has made already.
    pub(super) ready: Option<Made>,
}

impl Planned<'_> {
    /// Whether the bytes are copied.
    pub fn is_copied(&self) -> bool {
        self.ty == self.info.ty && self.pruning.is_none()
    }

    /// Whether blocks stay but for the codes of zeros.
    pub(crate) fn stays_in_blocks(&self) -> bool {
        self.ty == self.info.ty && self.ty.block_len() > 1
    }

    /// Importances of one matrix.
    pub(super) fn importance(&self, matrix: usize) -> Option<&[f32]> {
        let cols = self.info.cols() as usize;
        self.importances.as_ref().map(|all| &all[matrix * cols..][..cols])
    }

    /// Writer of its codes, if it keeps those of a grid.
    pub(super) fn rows_of_grid<'a>(
        &'a self,
        new: &'a TypeKernels,
    ) -> Result<Option<grid::Rows<'a>>, QuantizeError> {
        let rows = self.grid.as_ref().map(|found| Ok(found.rows(new.encoder()?)));
        rows.transpose().map_err(|NoEncoder(ty)| {
            let (name, method) = (self.info.name.clone(), self.method.name);
            QuantizeError::NoMethod { name, ty, method }
        })
    }

    /// Writes the blocks of a row `x`, whose bytes are `old`, by the codes of a grid if it keeps those, and what
    /// they are read as into `y`; returns what they lost.
    ///
    /// # Errors
    /// The method has no way to the type, the type has no zero, or the row is not on the grid.
    pub(super) fn row(
        &self,
        new: &TypeKernels,
        grid: Option<&mut grid::Rows<'_>>,
        (x, old): (&[f32], &[u8]),
        importance: Option<&[f32]>,
        blocks: &mut [u8],
        y: &mut [f32],
    ) -> Result<Loss, QuantizeError> {
        if let Some(grid) = grid {
            if !grid.encode(x, blocks) {
                return Err(QuantizeError::OffGrid { name: self.info.name.clone() });
            }
            new.dequantize(blocks, y);
            return Ok(loss_of(x, y));
        }
        let mut pruned = Cow::Borrowed(x);
        if let Some(pruning) = self.pruning {
            pruning.row(pruned.to_mut(), importance);
        }
        self.encode(new, (&pruned, old), importance, blocks)?;
        new.dequantize(blocks, y);
        Ok(loss_of(x, y))
    }

    /// Writes the blocks of a row whose zeros are in place; `old` is what blocks it had.
    pub(super) fn encode(
        &self,
        new: &TypeKernels,
        (x, old): (&[f32], &[u8]),
        importance: Option<&[f32]>,
        blocks: &mut [u8],
    ) -> Result<(), QuantizeError> {
        let name = || self.info.name.clone();
        if self.stays_in_blocks() && self.pruning.is_some_and(|p| !p.method.feeds_back) {
            blocks.copy_from_slice(old);
        } else {
            self.method.quantize(new, x, importance, blocks).map_err(|_| {
                QuantizeError::NoMethod { name: name(), ty: self.ty, method: self.method.name }
            })?;
        }
        if self.keep_zeros.keeps(x) {
            zeros::keep(new, x, importance, blocks)
                .map_err(|zeros::NoZero(ty)| QuantizeError::NoZero { name: name(), ty })?;
        }
        Ok(())
    }

    /// Writes the blocks of one matrix of the tensor, `[rows][columns]`, whose bytes are `old`, by the
    /// method alone; returns what they lost.
    ///
    /// # Errors
    /// The method has no way to the type, or the type has no zero.
    pub(crate) fn quantize_alone(
        &self,
        kernels: &KernelTable,
        matrix: usize,
        (x, old): (&[f32], &[u8]),
        blocks: &mut [u8],
    ) -> Result<Loss, QuantizeError> {
        let cols = self.info.cols() as usize;
        let new = kernels.types(self.ty).ok_or_else(|| {
            let (name, ty) = (self.info.name.clone(), self.ty);
            QuantizeError::NoMethod { name, ty, method: self.method.name }
        })?;
        let row_bytes = cols / self.ty.block_len() * self.ty.block_bytes();
        let old_bytes = cols / self.info.ty.block_len() * self.info.ty.block_bytes();
        let mut grid = self.rows_of_grid(new)?;
        let (mut loss, mut y) = (Loss::default(), vec![0.0; cols]);
        let rows = x.chunks_exact(cols).zip(old.chunks_exact(old_bytes));
        for (row, blocks) in rows.zip(blocks.chunks_exact_mut(row_bytes)) {
            loss.add(self.row(new, grid.as_mut(), row, self.importance(matrix), blocks, &mut y)?);
        }
        Ok(loss)
    }

    /// That nothing is known of its inputs, which pruning has to see.
    pub(crate) fn no_inputs(&self) -> QuantizeError {
        let (name, method) = (self.info.name.clone(), self.pruning.map_or("", |p| p.method.name));
        QuantizeError::NoInputs { name, method }
    }

    /// Whether it is the source's times factors, which other tensors take back.
    pub(super) fn has_factors(&self) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.has_factors)
    }

    /// Whether importances weigh its errors.
    pub fn has_importances(&self) -> bool {
        self.importances.is_some()
    }
}

/// A tensor that a method which sees a text has made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its name, type, shape and blocks.
    pub weight: Weight,
    /// Loss of its weights, factors taken back.
    pub loss: Loss,
    /// Whether it is the source's times factors.
    pub has_factors: bool,
    /// Loss of its outputs; zeros where the text never came to it, or it is no matrix.
    pub outputs: OutputLoss,
    /// Matrices that the text never came to: experts that were not chosen.
    pub unseen: usize,
}
