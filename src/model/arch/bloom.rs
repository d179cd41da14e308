//! BLOOM (arXiv:2211.05100): ALiBi, a norm of the embeddings.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, When, laid, same};
use crate::model::{EmbedNorm, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let _ = h.f32("attention.max_alibi_bias")?;
    let mut spec = ModelSpec::gpt_like(h)?.alibi(8.0);
    spec.embed_norm = EmbedNorm::Weighted;
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["BloomForCausalLM", "BloomModel"],
    arch: "bloom",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::IntElse("context_length", &["seq_length"], 2048),
        Key::Times("feed_forward_length", &["hidden_size", "n_embed"], 4),
        Key::Int("attention.head_count_kv", &["n_head", "num_attention_heads"]),
    ]],
}];

const NAMES: &[Names] = &[
    same("word_embeddings", "token_embd"),
    same("word_embeddings_layernorm", "token_embd_norm"),
    same("lm_head", "output"),
    same("ln_f", "output_norm"),
    same("h.#.input_layernorm", "blk.#.attn_norm"),
    same("h.#.post_attention_layernorm", "blk.#.ffn_norm"),
    laid("h.#.self_attention.query_key_value", "blk.#.attn_qkv", Layout::HeadsQkv),
    same("h.#.self_attention.dense", "blk.#.attn_output"),
    same("h.#.mlp.dense_h_to_4h", "blk.#.ffn_up"),
    same("h.#.mlp.dense_4h_to_h", "blk.#.ffn_down"),
];
