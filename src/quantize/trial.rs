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
    /// Cost of errors of the rows, without factors.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::METHODS;
    use crate::quantize::hessian::Hessian;
    use crate::random::SplitMix64;
    use gguf_rs_lite::GgmlType;

    /// Ones change nothing; columns that see large inputs lose less when they are multiplied, and more when
    /// they are divided.
    #[test]
    fn factors_help_where_inputs_are_large() {
        const COLS: usize = 64;
        let mut random = SplitMix64::new(11);
        let mut draw = || (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let large = |c: usize| if c % 16 == 3 { 30.0 } else { 1.0 };
        let x: Vec<f32> = (0..200 * COLS).map(|i| draw() * large(i % COLS)).collect();
        let w: Vec<f32> = (0..50 * COLS).map(|_| draw()).collect();
        let table = KernelTable::detect();
        let mut hessian = Hessian::new(COLS).unwrap();
        hessian.add(table, &x, 1).unwrap();
        let form = &Form::new(&hessian).unwrap();
        let kernels = table.types(GgmlType::Q4_0).unwrap();
        // Without importances the scales cannot see which columns count.
        let method = METHODS.iter().find(|method| method.name == "rtn").unwrap();
        let trial = Trial { table, kernels, method, form };
        let factors = |of: fn(f32) -> f32| (0..COLS).map(|c| of(large(c))).collect::<Vec<_>>();
        let all = [factors(|_| 1.0), factors(f32::sqrt), factors(|x| 1.0 / x.sqrt())];
        let lost = trial.lost(&w, &all, 3).unwrap();
        assert!(lost == trial.lost(&w, &all, 1).unwrap(), "threads");
        assert!(lost[1] < 0.8 * lost[0] && lost[2] > 1.2 * lost[0], "{lost:?}");
    }
}
