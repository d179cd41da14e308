//! Phi 3 and 4, dense (arXiv:2404.14219): gate and up projection in one tensor, LongRoPE. Contexts
//! beyond the original one, which want other rotary factors, are refused.

use crate::model::{
    Activation, DenseGate, Hparams, ModelError, ModelSpec, RopePairing, RopeScaling,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp);
    let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
    Ok(short_rope(spec, h)?.each_attention(|_, attention| attention.window = window))
}

/// LongRoPE within the original context.
pub(super) fn short_rope(mut spec: ModelSpec, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let attn_factor = h.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let n_ctx_orig = h.optional_length("rope.scaling.original_context_length")?;
    spec.n_ctx_max = Some(n_ctx_orig.unwrap_or(h.n_ctx_train));
    Ok(spec.rope(RopePairing::Neox).each_attention(|_, attention| {
        if let Some(rope) = &mut attention.rope {
            rope.scaling = RopeScaling::Short { attn_factor };
        }
    }))
}
