//! Products of float matrices that threads share, by the kernels that models are computed with.
//!
//! An element is one chain of sums whatever else a call computes, so results do not depend on the number
//! of threads.

use super::TuneError;
use crate::quantize::share;
use crate::tensor::Weight;
use crate::tensor::memory::reserve;
use gguf_rs_lite::GgmlType;
use teff_kernels::{ActFormat, Acts, FloatOps, KernelTable, Scratch};

/// Rows of an input that a thread takes at a time.
const PART_ROWS: usize = 64;
/// Columns that are turned into rows at a time: a cache line of floats.
const PART_COLS: usize = 16;
/// Floats that a thread copies at a time, at least.
const PART_LEN: usize = 1 << 16;

/// Kernels, and how many threads share work.
#[derive(Clone, Copy)]
pub(super) struct Machine {
    pub kernels: &'static KernelTable,
    pub threads: usize,
}

/// A matrix in the form in which kernels read weights.
pub(super) struct Matrix {
    /// Floats, little-endian.
    bytes: Vec<u8>,
    cols: usize,
}

impl Matrix {
    fn rows(&self) -> usize {
        self.bytes.len() / (self.cols * size_of::<f32>())
    }
}

/// `len` zeros, if there is memory for them.
pub(super) fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>, TuneError> {
    let mut values = Vec::new();
    reserve(&mut values, len, "activations and gradients")?;
    values.resize(len, T::default());
    Ok(values)
}

fn write(bytes: &mut [u8], x: &[f32]) {
    for (bytes, x) in bytes.as_chunks_mut().0.iter_mut().zip(x) {
        *bytes = x.to_le_bytes();
    }
}

impl Machine {
    pub fn ops(&self) -> &'static FloatOps {
        self.kernels.float()
    }

    /// Has threads do each part of a work.
    pub fn each<T: Send>(
        &self,
        parts: impl IntoIterator<Item = T>,
        work: impl Fn(T) + Sync,
    ) -> Result<(), TuneError> {
        let work = |part: T, _: &mut ()| {
            work(part);
            Ok(())
        };
        Ok(share(parts.into_iter().collect(), self.threads, &work)?)
    }

    /// The matrix `x`, `[rows][cols]`.
    pub fn matrix(&self, x: &[f32], cols: usize) -> Result<Matrix, TuneError> {
        let mut bytes = zeros(size_of_val(x))?;
        let parts = bytes.chunks_mut(PART_LEN * size_of::<f32>()).zip(x.chunks(PART_LEN));
        self.each(parts, |(bytes, x)| write(bytes, x))?;
        Ok(Matrix { bytes, cols })
    }

    /// The transposed matrix `[cols][rows]` of `x`, `[rows][cols]`.
    pub fn transposed_matrix(&self, x: &[f32], cols: usize) -> Result<Matrix, TuneError> {
        let rows = x.len() / cols;
        self.matrix(&self.transposed(x, cols)?, rows)
    }

    /// `x`, `[rows][cols]`, as `[cols][rows]`.
    pub fn transposed(&self, x: &[f32], cols: usize) -> Result<Vec<f32>, TuneError> {
        let rows = x.len() / cols;
        let mut out = zeros(x.len())?;
        let parts = out.chunks_mut((PART_COLS * rows).max(1)).enumerate();
        self.each(parts, |(number, out)| {
            let first = number * PART_COLS;
            let n = out.len() / rows;
            for (r, row) in x.chunks_exact(cols).enumerate() {
                for (c, &x) in row[first..first + n].iter().enumerate() {
                    out[c * rows + r] = x;
                }
            }
        })?;
        Ok(out)
    }

    /// `y[t][r] = w[r] . x[t]` for the rows of `x`.
    pub fn product(&self, w: &Matrix, x: &[f32]) -> Result<Vec<f32>, TuneError> {
        let (cols, rows) = (w.cols, w.rows());
        let mut y = zeros(x.len() / cols * rows)?;
        let floats = self.kernels.types(GgmlType::F32).expect("floats are in each table");
        let parts = y.chunks_mut(PART_ROWS * rows).zip(x.chunks(PART_ROWS * cols));
        let work = |(y, x): (&mut [f32], &[f32]), scratch: &mut Scratch| {
            let plan = self.kernels.plan(ActFormat::F32, cols, x.len() / cols);
            let acts = Acts { plan: &plan, q: &[], d: &[], s: &[], x };
            floats.matmul(&w.bytes, rows, &acts, scratch, y);
            Ok(())
        };
        share(parts.collect(), self.threads, &work)?;
        Ok(y)
    }

    /// The values of a weight, `[rows][cols]`.
    pub fn values(&self, weight: &Weight) -> Result<Vec<f32>, TuneError> {
        let kernels = self
            .kernels
            .types(weight.ty)
            .ok_or_else(|| TuneError::Type { name: weight.name.clone(), ty: weight.ty })?;
        let (cols, rows) = (weight.cols, weight.rows * weight.n);
        let mut values = zeros(rows * cols)?;
        let (row_bytes, part) = (weight.row_bytes(), (PART_LEN / cols).max(1));
        let parts = values.chunks_mut(part * cols).zip(weight.bytes().chunks(part * row_bytes));
        self.each(parts, |(values, bytes)| {
            for (x, bytes) in values.chunks_exact_mut(cols).zip(bytes.chunks_exact(row_bytes)) {
                kernels.dequantize(bytes, x);
            }
        })?;
        Ok(values)
    }
}

/// `y += x`.
pub(super) fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

/// `y += f x`.
pub(super) fn add_scaled(y: &mut [f32], x: &[f32], f: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += f * x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::testing::{draw, machine};

    #[test]
    fn products_are_those_of_the_definition() {
        let machine = machine();
        let (rows, cols, n) = (70, 37, 131);
        let (w, x) = (draw(1, rows * cols), draw(2, n * cols));
        let expected = |t: usize, r: usize| -> f64 {
            (0..cols).map(|c| f64::from(w[r * cols + c]) * f64::from(x[t * cols + c])).sum()
        };
        let y = machine.product(&machine.matrix(&w, cols).unwrap(), &x).unwrap();
        for (i, y) in y.iter().enumerate() {
            assert!((f64::from(*y) - expected(i / rows, i % rows)).abs() < 1e-5);
        }
        // By the transposed one: the same numbers.
        let turned = machine.transposed(&w, cols).unwrap();
        let w = machine.transposed_matrix(&turned, rows).unwrap();
        assert_eq!(machine.product(&w, &x).unwrap(), y);
        let alone = Machine { threads: 1, ..machine };
        assert_eq!(alone.product(&w, &x).unwrap(), y);
    }
}
