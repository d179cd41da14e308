//! Hunyuan (arXiv:2411.02265), dense and with experts: norms of query and key heads after the
//! rotation.

use crate::model::{Hparams, ModelError, ModelSpec, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    // The experts are as wide as the metadata's dense part.
    h.hide("expert_feed_forward_length");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    spec.qk_norms(QkNorm::HeadsAfterRope).shared_expert(h)
}
