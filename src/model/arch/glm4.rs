//! GLM 4 (arXiv:2406.12793): norms around everything.

use crate::model::{
    Activation, DenseGate, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let pairing = if h.rope_sections() { RopePairing::Neox } else { RopePairing::Norm };
    let spec = ModelSpec::unscaled(h)?.rope(pairing).norms(NormPlacement::PRE_AND_POST);
    Ok(spec.dense(Activation::Silu, DenseGate::InUp))
}
