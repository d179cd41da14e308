//! Command with experts: experts beside attention, sliding windows with rotation, full attention
//! without except in the leading layers.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    if h.f32("attention.layer_norm_rms_epsilon")?.is_some_and(|eps| eps > 0.0) {
        h.hide("attention.layer_norm_epsilon");
    } else {
        h.hide("attention.layer_norm_rms_epsilon");
    }
    let lead = h.u64("leading_dense_block_count")?.unwrap_or(0) as usize;
    let spec = ModelSpec::llama_like(h)?.parallel("attn_norm").logit_scale(h)?;
    let spec = spec.sliding_from(h, 4, None)?;
    let spec = spec.no_rope(|i, attention| attention.window.is_none() && i >= lead);
    let _ = h.u64("expert_shared_count")?;
    let mut spec = spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    // The mean of the shared expert and the others.
    spec = spec.each_moe(|_, moe| moe.out_scale = if moe.shared.is_some() { 0.5 } else { 1.0 });
    spec.dense_lead(h)
}
