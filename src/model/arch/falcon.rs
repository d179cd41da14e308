//! Falcon (arXiv:2311.16867): the feed-forward part beside the attention, which has a norm of its own
//! in the larger models.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, When, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::gpt_like(h)?.rope(RopePairing::Neox).parallel("attn_norm");
    if h.has_tensor("blk.0.attn_norm_2.weight") {
        spec.layers.iter_mut().for_each(|l| l.norms.before_mixer = Some("attn_norm_2"));
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["FalconForCausalLM", "RWForCausalLM"],
    arch: "falcon",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::IntElse("context_length", &["max_position_embeddings"], 2048),
        Key::Times("feed_forward_length", &["hidden_size"], 4),
        Key::Int("feed_forward_length", &["ffn_hidden_size"]),
        Key::TextIs("tensor_data_layout", "jploski"),
    ]],
}];

const NAMES: &[Names] = &[
    same("word_embeddings", "token_embd"),
    same("lm_head", "output"),
    same("ln_f", "output_norm"),
    same("h.#.input_layernorm", "blk.#.attn_norm"),
    same("h.#.ln_mlp", "blk.#.attn_norm"),
    same("h.#.ln_attn", "blk.#.attn_norm_2"),
    laid("h.#.self_attention.query_key_value", "blk.#.attn_qkv", Layout::GroupsQkv),
    same("h.#.self_attention.dense", "blk.#.attn_output"),
    same("h.#.mlp.dense_h_to_4h", "blk.#.ffn_up"),
    same("h.#.mlp.dense_4h_to_h", "blk.#.ffn_down"),
];
