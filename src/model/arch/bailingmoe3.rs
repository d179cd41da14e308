//! Ling 3: Kimi Delta Attention with a bounded decay, every few layers latent attention with a gate
//! of each head.

use crate::model::{
    DeltaDecay, DeltaSpec, ExpertGating, GluClamp, Hparams, Mixer, ModelError, ModelSpec,
    RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    if h.bool("kda.safe_gate")? == Some(false) {
        return Err(h.bad("kda.safe_gate", "is false, not supported"));
    }
    let bound = h.f32("kda.gate_lower_bound")?.filter(|&bound| bound < 0.0);
    let bound = bound.ok_or_else(|| h.bad("kda.gate_lower_bound", "is not negative"))?;
    let delta = DeltaSpec::channels(h, DeltaDecay::BoundedChannels(bound))?;
    let pairing = if h.rope_sections() { RopePairing::Neox } else { RopePairing::Norm };
    let spec = ModelSpec::unscaled(h)?.mla(h)?.each_mla(|_, latent| latent.gate = true);
    let spec = spec.rope(pairing).recurrent(&Mixer::Delta(delta)).shared_expert(h)?;
    let spec = spec.expert_gating(h, ExpertGating::Sigmoid)?.dense_lead(h)?;
    let none = vec![0.0; h.n_layers];
    let of_experts = h.f32s("swiglu_clamp_exp")?.unwrap_or(none.clone());
    let of_dense = h.f32s("swiglu_clamp_shexp")?.unwrap_or(none);
    let mut spec = spec.each_moe(|i, moe| {
        moe.clamp = Some(GluClamp::after_silu(of_experts[i]));
        if let Some(shared) = &mut moe.shared {
            shared.clamp = Some(GluClamp::after_silu(of_dense[i]));
        }
    });
    for (layer, limit) in spec.layers.iter_mut().zip(of_dense) {
        if let crate::model::Ffn::Dense(dense) = &mut layer.ffn {
            dense.clamp = Some(GluClamp::after_silu(limit));
        }
    }
    Ok(spec)
}
