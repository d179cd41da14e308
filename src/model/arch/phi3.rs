//! Phi 3 and 4, dense (arXiv:2404.14219): gate and up projection in one tensor, LongRoPE.

use crate::model::{
    Activation, DenseGate, Hparams, ModelError, ModelSpec, RopePairing, RopeScaling,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp);
    let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
    Ok(long_rope(spec, h)?.each_attention(|_, attention| attention.window = window))
}

/// LongRoPE, whatever the type of scaling in the metadata.
pub(super) fn long_rope(spec: ModelSpec, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let attn_factor = h.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let n_ctx_orig = h.optional_length("rope.scaling.original_context_length")?;
    let n_ctx_orig = n_ctx_orig.unwrap_or(h.n_ctx_train);
    let spec = spec.rope(RopePairing::Neox);
    Ok(spec.each_rope(|_, rope| rope.scaling = RopeScaling::LongRope { n_ctx_orig, attn_factor }))
}
