//! Llama 4, text: experts weigh their inputs, every fourth layer is free of rotation. Contexts are
//! bounded to one chunk of attention, within which scores need no temperature either.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, QkNorm, SharedExpert, Weigh};

/// Experts of Maverick, which alone does not norm queries and keys.
const EXPERTS_MAVERICK: u64 = 128;
/// Positions of a chunk, within which attention is full.
const CHUNK: usize = 8192;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    for key in ["attention.sliding_window", "attention.temperature_scale"] {
        let _ = h.f32(key).or_else(|_| h.u64(key).map(|n| n.map(|n| n as f32)))?;
    }
    let _ = h.pattern("attention.sliding_window_pattern", 4)?;
    let step = h.length("interleave_moe_layer_step")?;
    let mut spec = ModelSpec::unscaled(h)?.no_rope(|i, _| (i + 1).is_multiple_of(4));
    spec.n_ctx_max = Some(CHUNK - 1);
    let normed = h.u64("expert_count")? != Some(EXPERTS_MAVERICK);
    let spec = spec.each_attention(|_, attention| {
        if normed && attention.rope.is_some() {
            attention.qk_norm = QkNorm::BareHeadsAfterRope;
        }
    });
    let spec = spec.attention_scale(h)?.each_moe(|_, moe| {
        moe.gating = ExpertGating::Sigmoid;
        moe.normalize_weights = false;
        moe.weigh = Weigh::Inputs;
        moe.shared =
            Some(SharedExpert { n_ff: moe.n_ff, suffix: "_shexp", gated: false, clamp: None });
    });
    spec.dense_where(h, |i| !(i + 1).is_multiple_of(step))
}
