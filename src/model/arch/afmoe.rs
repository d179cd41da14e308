//! Trinity (Arcee): gated attention, sliding windows, every fourth layer free of rotation.

use crate::model::checkpoint::{
    Checkpoint, DECODER, EXPERTS, Key, Names, ROTARY_ALL, VOCAB, When, same,
};
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

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["AfmoeForCausalLM"],
    arch: "afmoe",
    when: When::Always,
    tensors: &[NAMES, EXPERTS, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::MustBe("mup_enabled", true),
            Key::Int("expert_shared_count", &["num_shared_experts"]),
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::Int("leading_dense_block_count", &["num_dense_layers"]),
            Key::FlagElse("expert_weights_norm", &["route_norm"], true),
            Key::Float("expert_weights_scale", &["route_scale"]),
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::IntDefault("expert_gating_func", 2),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("layers.#.post_attention_layernorm", "blk.#.post_attention_norm"),
    same("layers.#.pre_mlp_layernorm", "blk.#.ffn_norm"),
    same("layers.#.post_mlp_layernorm", "blk.#.post_ffw_norm"),
    same("layers.#.self_attn.gate_proj", "blk.#.attn_gate"),
    same("layers.#.mlp.router.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.mlp.expert_bias", "blk.#.exp_probs_b.bias"),
];
