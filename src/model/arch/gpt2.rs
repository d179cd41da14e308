//! GPT-2, and StarCoder 1 (arXiv:2305.06161): learned positions.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, When, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::gpt_like(h)?.positions(true))
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["GPT2LMHeadModel", "GPT2Model"],
        arch: "gpt2",
        when: When::Always,
        tensors: &[TURNED, NAMES],
        keys: &[&[
            Key::Times("feed_forward_length", &["n_embd"], 4),
            Key::Int("feed_forward_length", &["n_inner"]),
        ]],
    },
    Checkpoint {
        classes: &["GPTBigCodeForCausalLM"],
        arch: "starcoder",
        when: When::Always,
        tensors: &[NAMES],
        keys: &[&[
            Key::Times("feed_forward_length", &["n_embd"], 4),
            Key::Int("feed_forward_length", &["n_inner"]),
        ]],
    },
];

/// Products of GPT-2, which are stored as convolutions.
const TURNED: &[Names] = &[
    laid("h.#.attn.c_attn", "blk.#.attn_qkv", Layout::Transposed),
    laid("h.#.attn.c_proj", "blk.#.attn_output", Layout::Transposed),
    laid("h.#.mlp.c_fc", "blk.#.ffn_up", Layout::Transposed),
    laid("h.#.mlp.c_proj", "blk.#.ffn_down", Layout::Transposed),
];

const NAMES: &[Names] = &[
    same("wte", "token_embd"),
    same("wpe", "position_embd"),
    same("lm_head", "output"),
    same("ln_f", "output_norm"),
    same("h.#.ln_1", "blk.#.attn_norm"),
    same("h.#.ln_2", "blk.#.ffn_norm"),
    same("h.#.attn.c_attn", "blk.#.attn_qkv"),
    same("h.#.attn.c_proj", "blk.#.attn_output"),
    same("h.#.mlp.c_fc", "blk.#.ffn_up"),
    same("h.#.mlp.c_proj", "blk.#.ffn_down"),
];
