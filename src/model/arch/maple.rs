//! Maple: sliding windows with rotation, full attention without, bounded experts.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, VOCAB, When};
use crate::model::{GluClamp, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().sliding(h, 1, None)?;
    let limits = h.f32s("swiglu_clamp_exp")?;
    let limits = limits.ok_or_else(|| h.missing("swiglu_clamp_exp"))?;
    Ok(spec.no_rope(|_, attention| attention.window.is_none()).each_moe(|i, moe| {
        moe.clamp = (limits[i] > 0.0).then_some(GluClamp::both(limits[i], 0.0));
    }))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MapleForCausalLM"],
    arch: "maple",
    when: When::Always,
    tensors: &[EXPERTS, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::RotaryShare(&[], 1.0),
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::Needs("layer_types"),
            Key::Windows("attention.sliding_window_pattern"),
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::FloatsAre("swiglu_clamp_exp", 7.0),
            Key::MustEqual("num_shared_experts", 0.0),
            Key::Needs("nope_on_global_attention"),
            Key::MustBe("nope_on_global_attention", true),
        ],
    ],
}];
