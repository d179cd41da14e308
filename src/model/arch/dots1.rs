//! dots.llm1 (arXiv:2506.05767).

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, When};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Softmax)?.dense_lead(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Dots1ForCausalLM"],
    arch: "dots1",
    when: When::Always,
    tensors: &[EXPERTS, DECODER],
    keys: &[KEYS],
}];

/// Experts in the mould of DeepSeek, chosen by a sigmoid.
pub const KEYS: &[Key] = &[
    Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
    Key::Int("leading_dense_block_count", &["first_k_dense_replace"]),
    Key::Int("expert_shared_count", &["n_shared_experts", "num_shared_experts"]),
    Key::Product(
        "expert_shared_feed_forward_length",
        &["moe_intermediate_size"],
        &["n_shared_experts", "num_shared_experts"],
    ),
    Key::Float("expert_weights_scale", &["routed_scaling_factor"]),
    Key::Flag("expert_weights_norm", &["norm_topk_prob"]),
    Key::IntDefault("expert_gating_func", 2),
];
