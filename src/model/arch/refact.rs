//! Refact: LLaMA with ALiBi and no biases.

use crate::model::{Hparams, ModelError, ModelSpec, TensorUse};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let _ = h.f32("attention.max_alibi_bias")?;
    if h.u64("expert_count")?.unwrap_or(0) > 0 {
        return Err(h.bad("expert_count", "is not 0: experts are not known here"));
    }
    let spec = ModelSpec::unscaled(h)?.alibi(8.0).ignore_output_bias();
    Ok(spec.each_dense(|dense| dense.biases = TensorUse::Ignore))
}
