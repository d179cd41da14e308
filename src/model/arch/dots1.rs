//! dots.llm1 (arXiv:2506.05767).

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Softmax)?.dense_lead(h)
}
