//! Mellum 2 (JetBrains): sliding windows without stretched rotation.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // All layers turn by the same base.
    h.hide("rope.freq_base_swa");
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm();
    spec.sliding(h, 4, None)?.plain_window_ropes(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MellumForCausalLM"],
    arch: "mellum",
    when: When::Always,
    tensors: &[EXPERTS, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        super::qwen2moe::EXPERT_WIDTHS,
        &[
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::Pattern("attention.sliding_window_pattern", "layer_types", "sliding_attention"),
            // All layers turn by the same base.
            Key::Without("rope.freq_base_swa"),
            Key::MustAgree(
                "rope_parameters.full_attention.rope_theta",
                "rope_parameters.sliding_attention.rope_theta",
            ),
            Key::MustBe("norm_topk_prob", true),
        ],
    ],
}];
