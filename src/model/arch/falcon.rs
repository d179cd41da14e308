//! Falcon (arXiv:2311.16867): the feed-forward part beside the attention, which has a norm of its own
//! in the larger models.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::gpt_like(h)?.rope(RopePairing::Neox).parallel("attn_norm");
    if h.has_tensor("blk.0.attn_norm_2.weight") {
        spec.layers.iter_mut().for_each(|l| l.norms.before_mixer = Some("attn_norm_2"));
    }
    Ok(spec)
}
