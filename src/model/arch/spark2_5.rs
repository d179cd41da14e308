//! Spark 2.5 (iFlytek): a gate of each head, sliding windows.

use crate::model::{Activation, AttentionGate, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).sliding(h, 0, None)?;
    let spec = spec.act(Activation::Gelu);
    Ok(spec.each_attention(|_, attention| attention.gate = AttentionGate::Heads))
}
