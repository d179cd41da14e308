//! Kimi Linear (arXiv:2510.26692): Kimi Delta Attention, every fourth layer latent attention
//! without rotation.

use crate::model::{DeltaDecay, DeltaSpec, ExpertGating, Hparams, Mixer, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let delta = DeltaSpec::channels(h, DeltaDecay::Channels)?;
    let spec = ModelSpec::unscaled(h)?.mla(h)?.each_mla(|_, latent| latent.rope = None);
    let spec = spec.recurrent(&Mixer::Delta(delta)).shared_expert(h)?;
    let spec = spec.expert_gating(h, ExpertGating::Sigmoid)?;
    spec.each_moe(|_, moe| moe.normalize_weights = true).dense_lead(h)
}
