//! The head of a reranker: from the vector of a pair of texts to scores.
//!
//! It is small and runs once for each pair, so it is computed here, with weights widened to f32 and
//! sums in f64; its file's blocks may be quantized.

use crate::model::{Binder, ClassifierSpec, ModelError, ModelSpec, Pooling};
use gguf_rs_lite::GgufFile;
use std::sync::Arc;
use teff_kernels::{FloatOps, KernelTable};

/// Head of a reranker: see [`ClassifierSpec`].
#[derive(Debug)]
pub(super) struct Classifier {
    spec: ClassifierSpec,
    /// Activated, and normed by these weights if there are any.
    dense: Option<(Matrix, Option<Vec<f32>>)>,
    output: Option<Matrix>,
    /// Added to the variance in the norm.
    norm_eps: f32,
    ops: &'static FloatOps,
}

/// `W x + b`.
#[derive(Debug)]
struct Matrix {
    /// `[rows][cols]`.
    weight: Vec<f32>,
    cols: usize,
    bias: Option<Vec<f32>>,
}

impl Classifier {
    /// The head that a file has, if it has one.
    pub(super) fn read(
        file: &Arc<GgufFile>,
        &spec: &ClassifierSpec,
        model: &ModelSpec,
        kernels: &'static KernelTable,
    ) -> Result<Option<Classifier>, ModelError> {
        let mut binder = Binder::new(file, kernels)?;
        let mut width = model.n_embd;
        let dense = Matrix::read(&mut binder, "cls", width)?;
        width = dense.as_ref().map_or(width, Matrix::rows);
        let norm = binder.optional_vector("cls.norm.weight", width)?;
        let dense = dense.map(|dense| (dense, norm));
        let output = Matrix::read(&mut binder, "cls.output", width)?;
        let (norm_eps, ops) = (model.norm_eps, kernels.float());
        let is_there = dense.is_some() || output.is_some();
        Ok(is_there.then_some(Classifier { spec, dense, output, norm_eps, ops }))
    }

    /// Pooling of the vector that it reads.
    pub(super) fn pooling(&self) -> Pooling {
        self.spec.pooling
    }

    /// Scores of a pooled vector.
    pub(super) fn scores(&self, vector: &[f32]) -> Vec<f32> {
        let mut x = vector.to_vec();
        if let Some((dense, norm)) = &self.dense {
            x = dense.product(&x);
            (self.ops.act)(self.spec.act, &mut x);
            if let Some(weight) = norm {
                let raw = x.clone();
                (self.ops.layer_norm)(&raw, Some(weight), None, self.norm_eps, &mut x);
            }
        }
        if let Some(output) = &self.output {
            x = output.product(&x);
        }
        if self.spec.softmax {
            (self.ops.softmax)(&mut x);
        }
        x
    }
}

impl Matrix {
    fn read(
        binder: &mut Binder<'_>,
        name: &str,
        cols: usize,
    ) -> Result<Option<Matrix>, ModelError> {
        let tensor = format!("{name}.weight");
        let Some(dims) = binder.dims(&tensor) else { return Ok(None) };
        let rows = dims.get(1).map_or(1, |&rows| rows as usize);
        let weight = binder.matrix(&tensor, rows, cols)?;
        let bias = binder.optional_vector(&format!("{name}.bias"), rows)?;
        Ok(Some(Matrix { weight: binder.values(&weight), cols, bias }))
    }

    fn rows(&self) -> usize {
        self.weight.len() / self.cols
    }

    fn product(&self, x: &[f32]) -> Vec<f32> {
        let dot = |row: &[f32]| -> f64 {
            row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
        };
        let bias = |row: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let rows = self.weight.chunks_exact(self.cols).enumerate();
        rows.map(|(i, row)| (dot(row) + bias(i)) as f32).collect()
    }
}
