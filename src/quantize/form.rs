//! Quadratic forms: what errors of a weight's rows cost in its outputs, `e H e` with a damped Hessian.

use super::error::QuantizeError;
use super::hessian::Hessian;
use super::product::product;
use crate::tensor::memory::reserve;
use std::ops::Range;
use teff_kernels::{KernelTable, Scratch};

/// Added to the diagonal, as a part of its mean, as in GPTQ.
pub(super) const DAMPING: f64 = 0.01;

/// Columns of a strip: a part of each type's block.
pub(super) const STRIP: usize = 32;

/// Memory of a product.
pub(super) type Buffers = (Scratch, Vec<f32>);

/// Quadratic form that says what errors of rows cost. Memory: 4 bytes times the square of the columns.
#[derive(Debug)]
pub struct Form {
    n: usize,
    /// The damped Hessian, `[n][n]`, floats as bytes.
    matrix: Vec<u8>,
    /// Damping: the number that was added to the diagonal.
    damping: f64,
    importance: Vec<f32>,
}

impl Form {
    /// The form of a Hessian.
    ///
    /// # Errors
    /// There is no memory, or activations are no finite numbers.
    ///
    /// # Panics
    /// If columns are no whole number of strips, which blocks of all types are.
    pub fn new(hessian: &Hessian) -> Result<Form, QuantizeError> {
        let n = hessian.cols;
        assert!(n.is_multiple_of(STRIP), "whole strips");
        let importance = hessian.diagonal();
        let damping = DAMPING * mean_of(&importance)?;
        let mut matrix = Vec::new();
        reserve(&mut matrix, n * n * size_of::<f32>(), "the Hessian of a product")?;
        for row in 0..n {
            for column in 0..n {
                let added = if row == column { damping as f32 } else { 0.0 };
                matrix.extend((hessian.at(row, column) + added).to_le_bytes());
            }
        }
        Ok(Form { n, matrix, damping, importance })
    }

    /// How much an error of each column counts by itself: as an importance matrix has it.
    pub fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// Columns.
    pub(super) fn cols(&self) -> usize {
        self.n
    }

    /// Damping: the number that was added to the diagonal.
    pub(super) fn damping(&self) -> f64 {
        self.damping
    }

    /// `y[t]` = the columns of a strip, from row `first` on, times `x[t]`, for each `STRIP` numbers of `x`.
    pub(super) fn strip_times(
        &self,
        table: &KernelTable,
        (strip, first): (usize, usize),
        x: &[f32],
        (scratch, y): &mut Buffers,
    ) {
        const BYTES: usize = STRIP * size_of::<f32>();
        let rows = self.matrix.chunks_exact(self.n * size_of::<f32>()).skip(first);
        let strip: Vec<u8> = rows.flat_map(|row| &row[strip * BYTES..][..BYTES]).copied().collect();
        product(table, &strip, x, STRIP, scratch, y);
    }

    /// `H x` for each row of `x`, `[rows][columns]`.
    pub(super) fn times(
        &self,
        table: &KernelTable,
        x: &[f32],
        (scratch, _): &mut Buffers,
    ) -> Vec<f32> {
        let mut products = Vec::new();
        product(table, &self.matrix, x, self.n, scratch, &mut products);
        products
    }

    /// Some rows and columns, floats as bytes.
    pub(super) fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Vec<u8> {
        const BYTES: usize = size_of::<f32>();
        let rows = self.matrix.chunks_exact(self.n * BYTES).skip(rows.start).take(rows.len());
        rows.flat_map(|row| &row[cols.start * BYTES..cols.end * BYTES]).copied().collect()
    }

    /// Costs of rows of errors.
    pub(super) fn costs(
        &self,
        table: &KernelTable,
        errors: &[f32],
        buffers: &mut Buffers,
    ) -> Vec<f64> {
        let products = self.times(table, errors, buffers);
        let rows = errors.chunks_exact(self.n).zip(products.chunks_exact(self.n));
        rows.map(|(errors, products)| dot(errors, products)).collect()
    }
}

/// The mean of a diagonal; 1 if all of it is 0, so that something can be divided by it.
pub(super) fn mean_of(diagonal: &[f32]) -> Result<f64, QuantizeError> {
    let mean = diagonal.iter().map(|&x| f64::from(x)).sum::<f64>() / diagonal.len() as f64;
    match mean.is_finite() {
        true if mean > 0.0 => Ok(mean),
        true => Ok(1.0),
        false => Err(QuantizeError::NotFiniteInputs),
    }
}

/// A sum of products in f64.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}
