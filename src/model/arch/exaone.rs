//! EXAONE 3 (arXiv:2408.03541).

use crate::model::checkpoint::{Checkpoint, Key, Names, ROTARY_ALL, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["ExaoneForCausalLM"],
    arch: "exaone",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[
        ROTARY_ALL,
        &[
            Key::Float("attention.layer_norm_rms_epsilon", &["layer_norm_epsilon"]),
            Key::Without("attention.layer_norm_epsilon"),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("wte", "token_embd"),
    same("lm_head", "output"),
    same("ln_f", "output_norm"),
    same("h.#.ln_1", "blk.#.attn_norm"),
    same("h.#.ln_2", "blk.#.ffn_norm"),
    same("h.#.attn.attention.q_proj", "blk.#.attn_q"),
    same("h.#.attn.attention.k_proj", "blk.#.attn_k"),
    same("h.#.attn.attention.v_proj", "blk.#.attn_v"),
    same("h.#.attn.attention.out_proj", "blk.#.attn_output"),
    same("h.#.mlp.c_fc_0", "blk.#.ffn_gate"),
    same("h.#.mlp.c_fc_1", "blk.#.ffn_up"),
    same("h.#.mlp.c_proj", "blk.#.ffn_down"),
];
