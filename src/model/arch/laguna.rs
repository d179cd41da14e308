//! Laguna: attention gated by softplus, sliding windows, experts.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, VOCAB, When, same};
use crate::model::{
    Activation, AttentionGate, ExpertGating, Hparams, ModelError, ModelSpec, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    let spec =
        spec.sliding_from(h, 4, None)?.plain_window_ropes(h)?.each_attention(|i, attention| {
            let rows = h.tensor_rows(&format!("blk.{i}.attn_gate.weight"));
            let by_head = rows == Some(attention.n_heads as u64);
            attention.gate = if by_head { AttentionGate::Heads } else { AttentionGate::Elements };
            attention.gate_act = Activation::Softplus;
        });
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?.dense_lead(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["LagunaForCausalLM"],
    arch: "laguna",
    when: When::Always,
    tensors: &[NAMES, EXPERTS, DECODER],
    keys: &[
        VOCAB,
        super::qwen2moe::EXPERT_WIDTHS,
        &[
            Key::Int("attention.head_count", &["num_attention_heads_per_layer"]),
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::Windows("attention.sliding_window_pattern"),
            Key::RotaryShare(&[], 1.0),
            Key::WindowRotary,
            Key::Leading("leading_dense_block_count", "mlp_layer_types", "dense"),
            Key::Float("expert_weights_scale", &["moe_routed_scaling_factor"]),
            Key::FlagIs("expert_weights_norm", true),
            Key::IntIs("expert_gating_func", 2),
            Key::MustEqual("moe_router_logit_softcapping", 0.0),
            Key::MustBe("moe_apply_router_weight_on_input", false),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("layers.#.self_attn.g_proj", "blk.#.attn_gate"),
    same("layers.#.mlp.experts.e_score_correction_bias", "blk.#.exp_probs_b.bias"),
];
