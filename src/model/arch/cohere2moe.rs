//! Command with experts: experts beside attention, sliding windows with rotation, full attention
//! without except in the leading layers.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, VOCAB, When};
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

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Cohere2MoeForCausalLM"],
        arch: "cohere2moe",
        when: When::Is("expert_selection_fn", "sigmoid"),
        tensors: &[EXPERTS, DECODER],
        keys: &[
            VOCAB,
            KEYS,
            &[
                Key::IntIs("expert_gating_func", 2),
                Key::FlagElse("expert_weights_norm", &["norm_topk_prob"], true),
            ],
        ],
    },
    // The softmax of the chosen experts is that of all, made to sum up to 1.
    Checkpoint {
        classes: &["Cohere2MoeForCausalLM"],
        arch: "cohere2moe",
        when: When::Always,
        tensors: &[EXPERTS, DECODER],
        keys: &[
            VOCAB,
            KEYS,
            &[Key::IntIs("expert_gating_func", 1), Key::FlagIs("expert_weights_norm", true)],
        ],
    },
];

const KEYS: &[Key] = &[
    Key::FloatElse("logit_scale", &["logit_scale"], 0.0625),
    Key::Int("attention.sliding_window", &["sliding_window"]),
    Key::Needs("layer_types"),
    Key::Windows("attention.sliding_window_pattern"),
    Key::Int("feed_forward_length", &["prefix_dense_intermediate_size", "intermediate_size"]),
    Key::Int("expert_feed_forward_length", &["intermediate_size"]),
    Key::Int("leading_dense_block_count", &["first_k_dense_replace"]),
    Key::Leading("leading_dense_block_count", "mlp_layer_types", "dense"),
    Key::Int("expert_shared_count", &["num_shared_experts"]),
    Key::Product(
        "expert_shared_feed_forward_length",
        &["intermediate_size"],
        &["num_shared_experts"],
    ),
    Key::MustBeText("shared_expert_combination_strategy", "average"),
    Key::RotaryShare(&[], 1.0),
    Key::TextIs("rope.scaling.type", "none"),
];
