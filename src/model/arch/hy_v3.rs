//! Hunyuan 3.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, VOCAB, When, same};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

/// Dense feed-forward parts are not used in layers with experts.
pub(super) const BESIDE_EXPERTS: &[&str] = &["ffn_gate.", "ffn_up.", "ffn_down."];

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm();
    let mut spec = spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    spec.unused = BESIDE_EXPERTS;
    let has_router = |i: usize| h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight"));
    spec.dense_where(h, |i| !has_router(i))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["HYV3ForCausalLM"],
    arch: "hy_v3",
    when: When::Always,
    tensors: &[NAMES, EXPERTS, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::Int("expert_shared_feed_forward_length", &["moe_intermediate_size"]),
            Key::Product(
                "expert_shared_feed_forward_length",
                &["moe_intermediate_size"],
                &["num_shared_experts"],
            ),
            Key::FlagElse("expert_weights_norm", &["route_norm"], true),
            Key::FloatElse("expert_weights_scale", &["router_scaling_factor"], 1.0),
            Key::IntIs("expert_gating_func", 2),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("layers.#.mlp.router.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.mlp.expert_bias", "blk.#.exp_probs_b"),
    same("layers.#.mlp.shared_mlp.gate_proj", "blk.#.ffn_gate_shexp"),
    same("layers.#.mlp.shared_mlp.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.mlp.shared_mlp.down_proj", "blk.#.ffn_down_shexp"),
];
