//! Ling (arXiv:2503.05139); leading dense layers in the metadata mean nothing.

use crate::model::checkpoint::{
    Checkpoint, EXPERTS, Key, Names, ROTARY_ALL, Rows, VOCAB, When, same, split,
};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let _ = h.u64("leading_dense_block_count")?;
    let spec = ModelSpec::unscaled(h)?.shared_expert(h)?.expert_gating(h, ExpertGating::Softmax)?;
    Ok(spec.each_attention(|_, attention| {
        if let Some(rope) = &attention.rope {
            attention.scale = 1.0 / (rope.n_rot as f32).sqrt();
        }
    }))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["BailingMoeForCausalLM"],
    arch: "bailingmoe",
    when: When::Always,
    tensors: &[FUSED, NAMES, EXPERTS],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::Int("leading_dense_block_count", &["first_k_dense_replace"]),
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::FloatIs("expert_weights_scale", 1.0),
            Key::Int("expert_shared_count", &["num_shared_experts"]),
            Key::Flag("expert_weights_norm", &["norm_topk_prob"]),
            // Such heads are divided by the lengths of their columns.
            Key::MustBe("norm_head", false),
        ],
    ],
}];

const FUSED: &[Names] = &[split(
    "layers.#.attention.query_key_value",
    &[
        ("blk.#.attn_q", Rows::PairedQueries),
        ("blk.#.attn_k", Rows::PairedKeys),
        ("blk.#.attn_v", Rows::Values),
    ],
)];

/// Names of Ling.
pub const NAMES: &[Names] = &[
    same("word_embeddings", "token_embd"),
    same("norm", "output_norm"),
    same("lm_head", "output"),
    same("layers.#.input_layernorm", "blk.#.attn_norm"),
    same("layers.#.attention.query_key_value", "blk.#.attn_qkv"),
    same("layers.#.attention.query_layernorm", "blk.#.attn_q_norm"),
    same("layers.#.attention.key_layernorm", "blk.#.attn_k_norm"),
    same("layers.#.attention.dense", "blk.#.attn_output"),
    same("layers.#.post_attention_layernorm", "blk.#.ffn_norm"),
    same("layers.#.mlp.gate_proj", "blk.#.ffn_gate"),
    same("layers.#.mlp.up_proj", "blk.#.ffn_up"),
    same("layers.#.mlp.down_proj", "blk.#.ffn_down"),
    same("layers.#.mlp.gate.expert_bias", "blk.#.exp_probs_b.bias"),
];
