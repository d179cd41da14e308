//! Jais (arXiv:2308.16149): ALiBi, scores scaled by the head.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let exponent = h.f32("attention.max_alibi_bias")?.unwrap_or(0.0);
    let spec = ModelSpec::unscaled(h)?.alibi(exponent);
    Ok(spec.each_attention(|_, attention| attention.scale = 1.0 / attention.k_dim as f32))
}
