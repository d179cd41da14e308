//! GPT-NeoX (arXiv:2204.06745) and Pythia.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, When, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::gpt_like(h)?.rope(RopePairing::Neox);
    Ok(match h.bool("use_parallel_residual")?.unwrap_or(true) {
        true => spec.parallel("ffn_norm"),
        false => spec,
    })
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GPTNeoXForCausalLM"],
    arch: "gptneox",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::RotaryShare(&["rotary_pct"], 0.25),
        Key::FlagElse("use_parallel_residual", &["use_parallel_residual"], true),
    ]],
}];

const NAMES: &[Names] = &[
    same("embed_in", "token_embd"),
    same("embed_out", "output"),
    same("final_layer_norm", "output_norm"),
    same("layers.#.input_layernorm", "blk.#.attn_norm"),
    same("layers.#.post_attention_layernorm", "blk.#.ffn_norm"),
    laid("layers.#.attention.query_key_value", "blk.#.attn_qkv", Layout::HeadsQkv),
    same("layers.#.attention.dense", "blk.#.attn_output"),
    same("layers.#.mlp.dense_h_to_4h", "blk.#.ffn_up"),
    same("layers.#.mlp.dense_4h_to_h", "blk.#.ffn_down"),
];
