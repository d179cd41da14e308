//! Kimi Linear (arXiv:2510.26692): Kimi Delta Attention, every fourth layer latent attention without
//! rotation.

use crate::model::{
    DeltaDecay, DeltaSpec, ExpertGating, Hparams, KeyHeads, Mixer, ModelError, ModelSpec, TensorUse,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let heads = h.counts("attention.head_count")?.unwrap_or_default();
    let n_heads = heads.into_iter().max().unwrap_or(0);
    let head_dim = h.length("kda.head_dim")?;
    let delta = DeltaSpec {
        n_heads,
        v_dim: head_dim,
        n_key_heads: n_heads,
        k_dim: head_dim,
        key_heads: KeyHeads::Grouped,
        taps: h.length("ssm.conv_kernel")?,
        decay: DeltaDecay::Channels,
        scales: TensorUse::Ignore,
    };
    let spec = ModelSpec::unscaled(h)?.latent(h)?.each_latent(|_, latent| latent.rope = None);
    let spec = spec.recurrent(&Mixer::Delta(delta)).shared_expert(h)?;
    let spec = spec.expert_gating(h, ExpertGating::Sigmoid)?;
    spec.each_moe(|_, moe| moe.normalize_weights = true).dense_lead(h)
}
