//! Nomic BERT (arXiv:2402.01613): rotation, SwiGLU. Version 2 (arXiv:2502.07972) has ungated experts
//! in every second layer, weighed as they are.

use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec, TensorUse};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::bert_like(h)?.dense(Activation::Silu, DenseGate::Own);
    // The reference implementation loads and ignores them.
    Ok(spec.each_dense(|dense| dense.biases = TensorUse::Ignore))
}

pub fn moe(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let period = h.u64("moe_every_n_layers")?.unwrap_or(0) as usize;
    let spec = ModelSpec::bert_like(h)?.act(Activation::Gelu).each_moe(|_, moe| {
        moe.gated = false;
        moe.normalize_weights = false;
    });
    spec.dense_where(h, |i| period == 0 || i % period != 1)
}
