//! Trinity (Arcee): gated attention, sliding windows, every fourth layer free of rotation.

use crate::model::{
    AttentionGate, ExpertGating, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().sliding(h, 4, None)?;
    spec.embed_scale = (h.n_embd as f32).sqrt();
    let spec = spec.no_rope(|i, _| (i + 1).is_multiple_of(4)).norms(NormPlacement::PRE_AND_POST);
    let spec = spec.each_attention(|_, attention| attention.gate = AttentionGate::Elements);
    if h.u64("expert_shared_count")?.unwrap_or(0) == 0 {
        return Err(h.bad("expert_shared_count", "is 0, not supported"));
    }
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?.dense_lead(h)
}
