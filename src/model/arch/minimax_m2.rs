//! MiniMax M2: norms of all queries and keys.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // The experts are as wide as the metadata's dense part.
    h.hide("expert_feed_forward_length");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::Whole);
    let spec = spec.expert_gating(h, ExpertGating::Sigmoid)?;
    Ok(spec.each_moe(|_, moe| moe.normalize_weights = true))
}
