//! Phi 1, 1.5 and 2 (arXiv:2309.05463): the feed-forward part beside the attention, on one norm.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::gpt_like(h)?.rope(RopePairing::Neox).parallel("attn_norm"))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["PhiForCausalLM"],
    arch: "phi2",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[&[Key::RotaryShare(&[], 0.5)]],
}];

const NAMES: &[Names] = &[
    same("final_layernorm", "output_norm"),
    same("layers.#.self_attn.dense", "blk.#.attn_output"),
    same("layers.#.mlp.fc1", "blk.#.ffn_up"),
    same("layers.#.mlp.fc2", "blk.#.ffn_down"),
];
