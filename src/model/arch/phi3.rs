//! Phi 3 and 4, dense (arXiv:2404.14219): gate and up projection in one tensor, LongRoPE.

use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp);
    let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
    let spec = spec.each_attention(|_, attention| attention.window = window);
    Ok(spec.rope(RopePairing::Neox))
}
