//! Tuned tensors, for a file.

use super::{TuneError, Tuner};
use crate::engine::Model;
use crate::quantize::{Made, OutputLoss};
use crate::receipt::{Loss, loss_of};
use crate::tensor::Weight;
use gguf_rs_lite::GgmlType;

impl Tuner {
    /// The tensors that are other than the model's.
    ///
    /// # Errors
    /// A tensor cannot be read, or there is no memory.
    pub fn made(&self, model: &Model) -> Result<Vec<Made>, TuneError> {
        let mut all: Vec<Weight> = self.parameters.weights().cloned().collect();
        for (name, factors) in self.parameters.factors() {
            let is_written = model.file().tensor(name).is_some_and(|info| info.ty == GgmlType::F32);
            if is_written {
                let bytes = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
                all.push(Weight::owned(name, GgmlType::F32, [1, 1, factors.len()], bytes));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.into_iter().map(|weight| self.made_of(model, weight)).collect()
    }

    fn made_of(&self, model: &Model, weight: Weight) -> Result<Made, TuneError> {
        let (name, ty) = (weight.name.clone(), weight.ty);
        let unreadable = || TuneError::Type { name: name.clone(), ty };
        let info = model.file().tensor(&name).ok_or_else(unreadable)?;
        let source = Weight::mapped(model.file(), info);
        let kernels = self.kernels().types(ty).ok_or_else(unreadable)?;
        let (mut loss, mut x, mut y) = (Loss::default(), Vec::new(), Vec::new());
        let row_bytes = weight.row_bytes();
        let rows = source.bytes().chunks_exact(row_bytes);
        for (old, new) in rows.zip(weight.bytes().chunks_exact(row_bytes)) {
            x.resize(weight.cols, 0.0);
            y.resize(weight.cols, 0.0);
            kernels.dequantize(old, &mut x);
            kernels.dequantize(new, &mut y);
            loss.add(loss_of(&x, &y));
        }
        Ok(Made { weight, loss, has_factors: false, outputs: OutputLoss::default(), unseen: 0 })
    }
}
