//! Trials: what rows would lose with factors of their columns.

use super::at_inputs::alone;
use super::error::QuantizeError;
use super::form::{Buffers, Form};
use super::method::Method;
use super::share::share;
use teff_kernels::{KernelTable, TypeKernels};

/// Rows that go through a product together.
const ROWS: usize = 32;

/// How rows are quantized.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// Kernels that multiply.
    pub table: &'a KernelTable,
    /// Kernels of the type.
    pub kernels: &'a TypeKernels,
    /// The method, whose first step is tried.
    pub method: &'static Method,
    /// What errors of the rows cost, without factors.
    pub form: &'a Form,
}

impl Trial<'_> {
    /// What the outputs of rows `x`, `[rows][columns]`, lose with each of several factors of the columns,
    /// which the inputs are divided by. The sums do not depend on the number of threads.
    ///
    /// # Errors
    /// The method has no way to the type, or there are no threads.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn lost(
        &self,
        x: &[f32],
        factors: &[Vec<f32>],
        threads: usize,
    ) -> Result<Vec<f64>, QuantizeError> {
        let n = self.form.cols();
        assert!(x.len().is_multiple_of(n) && factors.iter().all(|f| f.len() == n), "whole rows");
        let chunks: Vec<&[f32]> = x.chunks(ROWS * n).collect();
        let mut lost = vec![0.0; factors.len() * chunks.len()];
        let parts = lost.iter_mut().enumerate().map(|(number, lost)| {
            (chunks[number % chunks.len()], &factors[number / chunks.len()], lost)
        });
        let work = |(x, factors, lost): (&[f32], &Vec<f32>, &mut f64), buffers: &mut Buffers| {
            *lost = self.part(x, factors, buffers)?;
            Ok(())
        };
        share(parts.collect(), threads, &work)?;
        Ok(lost.chunks(chunks.len().max(1)).map(|parts| parts.iter().sum()).collect())
    }

    fn part(
        &self,
        x: &[f32],
        factors: &[f32],
        buffers: &mut Buffers,
    ) -> Result<f64, QuantizeError> {
        let (n, ty) = (factors.len(), self.kernels.ty);
        let importance = self.form.importance().iter().zip(factors);
        let importance: Vec<f32> = importance.map(|(i, f)| i / (f * f)).collect();
        let scaled = x.chunks_exact(n).flat_map(|x| x.iter().zip(factors).map(|(x, f)| x * f));
        let scaled: Vec<f32> = scaled.collect();
        let mut blocks = vec![0; x.len() / ty.block_len() * ty.block_bytes()];
        alone(self.kernels, self.method, &scaled, &importance, &mut blocks)?;
        let mut errors = vec![0.0; x.len()];
        self.kernels.dequantize(&blocks, &mut errors);
        for (errors, x) in errors.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
            for ((e, x), factor) in errors.iter_mut().zip(x).zip(factors) {
                *e = x - *e / factor;
            }
        }
        Ok(self.form.costs(self.table, &errors, buffers).iter().sum())
    }
}
