//! OpenELM (arXiv:2404.14619): heads and widths of each layer.

use crate::model::checkpoint::{Checkpoint, Key, Names, Rows, When, same, split};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing, TensorUse};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    Ok(spec.each_attention(|_, attention| attention.qkv_scales = TensorUse::Ignore))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["OpenELMForCausalLM"],
    arch: "openelm",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::Int("context_length", &["max_context_length"]),
        Key::Int("attention.head_count", &["num_query_heads"]),
        Key::Int("attention.head_count_kv", &["num_kv_heads"]),
        Key::FloatIs("attention.layer_norm_rms_epsilon", 1e-6),
        Key::Float("rope.freq_base", &["rope_freq_constant"]),
        Key::Int("rope.dimension_count", &["head_dim"]),
        Key::DivisibleWidths(
            "feed_forward_length",
            "ffn_multipliers",
            "model_dim",
            "ffn_dim_divisor",
        ),
        Key::MustBe("ffn_with_glu", true),
        Key::MustBe("normalize_qk_projections", true),
        Key::MustBe("share_input_output_layers", true),
    ]],
}];

const NAMES: &[Names] = &[
    same("token_embeddings", "token_embd"),
    same("norm", "output_norm"),
    same("layers.#.attn_norm", "blk.#.attn_norm"),
    same("layers.#.attn.qkv_proj", "blk.#.attn_qkv"),
    same("layers.#.attn.q_norm", "blk.#.attn_q_norm"),
    same("layers.#.attn.k_norm", "blk.#.attn_k_norm"),
    same("layers.#.attn.out_proj", "blk.#.attn_output"),
    same("layers.#.ffn_norm", "blk.#.ffn_norm"),
    split(
        "layers.#.ffn.proj_1",
        &[("blk.#.ffn_gate", Rows::FirstHalf), ("blk.#.ffn_up", Rows::SecondHalf)],
    ),
    same("layers.#.ffn.proj_2", "blk.#.ffn_down"),
];
