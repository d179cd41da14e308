//! The first Qwen (arXiv:2309.16609): biases on queries, keys and values; the metadata counts the
//! widths of gate and up projection together.

use crate::model::checkpoint::{Checkpoint, Key, Names, ROTARY_ALL, VOCAB, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    // As many rows as if there were no groups of queries.
    let spec = spec.each_attention(|_, attention| attention.qkv_rows = Some(3 * h.n_embd));
    Ok(spec.each_dense(|dense| dense.n_ff /= 2))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["QWenLMHeadModel"],
    arch: "qwen",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::Float("attention.layer_norm_rms_epsilon", &["layer_norm_epsilon"]),
            Key::Without("attention.layer_norm_epsilon"),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("wte", "token_embd"),
    same("ln_f", "output_norm"),
    same("lm_head", "output"),
    same("h.#.ln_1", "blk.#.attn_norm"),
    same("h.#.ln_2", "blk.#.ffn_norm"),
    same("h.#.attn.c_attn", "blk.#.attn_qkv"),
    same("h.#.attn.c_proj", "blk.#.attn_output"),
    // The second one is the gate.
    same("h.#.mlp.w1", "blk.#.ffn_up"),
    same("h.#.mlp.w2", "blk.#.ffn_gate"),
    same("h.#.mlp.c_proj", "blk.#.ffn_down"),
];
