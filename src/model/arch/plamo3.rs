//! PLaMo 3: norms around everything, sliding windows.

use crate::model::{
    Activation, DenseGate, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing, TensorUse,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp);
    let spec = spec.rope(RopePairing::Neox).qk_norm().sliding(h, 8, None)?;
    let spec = spec.each_attention(|_, attention| attention.qkv_scales = TensorUse::Ignore);
    Ok(spec.norms(NormPlacement::PRE_AND_POST))
}
