//! Ling and Ring 2.0 (arXiv:2510.22115).

use crate::model::checkpoint::{Checkpoint, EXPERTS, Key, VOCAB, When};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Softmax)?.dense_lead(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["BailingMoeV2ForCausalLM"],
        arch: "bailingmoe2",
        when: When::Always,
        tensors: &[super::bailingmoe::NAMES, EXPERTS],
        keys: &[VOCAB, KEYS, &[Key::RotaryShare(&[], 0.5)]],
    },
    // Its biases are made to have a mean of 0, which changes no choice.
    Checkpoint {
        classes: &["SarvamMoEForCausalLM", "modeling_sarvam_moe.SarvamMoEForCausalLM"],
        arch: "bailingmoe2",
        when: When::Always,
        tensors: &[super::bailingmoe::NAMES, EXPERTS],
        keys: &[VOCAB, KEYS, &[Key::RotaryShare(&[], 1.0)]],
    },
];

const KEYS: &[Key] = &[
    Key::Int("leading_dense_block_count", &["first_k_dense_replace"]),
    Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
    Key::Product(
        "expert_shared_feed_forward_length",
        &["moe_intermediate_size"],
        &["num_shared_experts"],
    ),
    Key::Int("expert_shared_feed_forward_length", &["moe_shared_expert_intermediate_size"]),
    Key::Float("expert_weights_scale", &["routed_scaling_factor"]),
    Key::Int("expert_shared_count", &["num_shared_experts"]),
    Key::Flag("expert_weights_norm", &["norm_topk_prob"]),
    Key::IntDefault("expert_gating_func", 2),
];
