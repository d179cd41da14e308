//! CodeShell (arXiv:2403.15747).

use crate::model::checkpoint::{Checkpoint, Key, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::gpt_like(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["CodeShellForCausalLM"],
    arch: "codeshell",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::Int("attention.head_count_kv", &["num_query_groups"]),
        Key::FloatIs("rope.freq_base", 10_000.0),
        Key::TextIs("rope.scaling.type", "linear"),
        Key::FloatIs("rope.scaling.factor", 1.0),
        Key::Times("feed_forward_length", &["n_embd"], 4),
        Key::Int("feed_forward_length", &["n_inner"]),
        Key::MustBeText("position_embedding_type", "rope"),
    ]],
}];

const NAMES: &[Names] = &[
    same("wte", "token_embd"),
    same("ln_f", "output_norm"),
    same("lm_head", "output"),
    same("h.#.ln_1", "blk.#.attn_norm"),
    same("h.#.attn.c_attn", "blk.#.attn_qkv"),
    same("h.#.attn.c_proj", "blk.#.attn_output"),
    same("h.#.ln_2", "blk.#.ffn_norm"),
    same("h.#.mlp.c_fc", "blk.#.ffn_up"),
    same("h.#.mlp.c_proj", "blk.#.ffn_down"),
];
