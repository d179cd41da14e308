//! StarCoder 2 (arXiv:2402.19173).

use super::llama::WINDOW;
use crate::model::checkpoint::{Checkpoint, DECODER, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::gpt_like(h)?.window_everywhere(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Starcoder2ForCausalLM"],
    arch: "starcoder2",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[WINDOW],
}];

const NAMES: &[Names] =
    &[same("layers.#.mlp.c_fc", "blk.#.ffn_up"), same("layers.#.mlp.c_proj", "blk.#.ffn_down")];
