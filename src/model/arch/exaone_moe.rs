//! K-EXAONE: EXAONE 4 with experts and norms before each part.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec =
        ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().sliding(h, 4, Some(128))?;
    let spec = spec.no_rope(|_, attention| attention.window.is_none());
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Softmax)?.dense_lead(h)
}
