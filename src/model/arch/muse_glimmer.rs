//! Muse Glimmer: gated attention, sliding windows with rotation and full attention without, norms
//! around everything.

use crate::model::{AttentionGate, EmbedNorm, Hparams, ModelError, ModelSpec, NormPlacement};

/// In the norms of what the parts of a layer give.
const POST_NORM_EPS: f32 = 1e-8;
/// Soft bound of the logits, where the metadata has none.
const SOFTCAP: f32 = 30.0;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.qk_norm().logit_scale(h)?;
    let spec = spec.sliding(h, 4, None)?.window_ropes(h, None)?;
    let spec = spec.no_rope(|_, attention| attention.window.is_none());
    let spec = spec.each_attention(|_, attention| attention.gate = AttentionGate::Elements);
    let mut spec = spec.norms(NormPlacement::PRE_AND_POST);
    spec.embed_norm = EmbedNorm::Bare;
    spec.post_norm_eps = POST_NORM_EPS;
    let cap = h.f32("final_logit_softcapping")?.unwrap_or(SOFTCAP);
    spec.head.softcap = Some(cap).filter(|&cap| cap != 0.0);
    Ok(spec)
}
