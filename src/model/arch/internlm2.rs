//! InternLM 2 (arXiv:2403.17297).

use crate::model::checkpoint::{Checkpoint, Layout, Names, ROTARY_ALL, VOCAB, When, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::unscaled(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["InternLM2ForCausalLM"],
    arch: "internlm2",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[ROTARY_ALL, VOCAB],
}];

const NAMES: &[Names] = &[
    same("tok_embeddings", "token_embd"),
    same("output", "output"),
    same("norm", "output_norm"),
    same("layers.#.attention_norm", "blk.#.attn_norm"),
    same("layers.#.ffn_norm", "blk.#.ffn_norm"),
    laid("layers.#.attention.wqkv", "", Layout::GroupsPaired),
    same("layers.#.attention.wo", "blk.#.attn_output"),
    same("layers.#.feed_forward.w1", "blk.#.ffn_gate"),
    same("layers.#.feed_forward.w2", "blk.#.ffn_down"),
    same("layers.#.feed_forward.w3", "blk.#.ffn_up"),
];
