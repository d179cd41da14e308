//! PLaMo 3: norms around everything, sliding windows.

use crate::model::{
    Activation, DenseGate, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing, TensorUse,
};

/// Base of the rotation in layers with a window, where the metadata has none.
const WINDOW_FREQ_BASE: f32 = 10_000.0;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp);
    let spec = spec.rope(RopePairing::Neox).qk_norm();
    let spec = spec.sliding(h, 8, None)?.window_ropes(h, Some(WINDOW_FREQ_BASE))?;
    let spec = spec.each_attention(|_, attention| attention.qkv_scales = TensorUse::Ignore);
    Ok(spec.norms(NormPlacement::PRE_AND_POST))
}
