//! ChatGLM 2 to 4 (arXiv:2406.12793).

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GlmForCausalLM"],
    arch: "chatglm",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[&[Key::RotaryShare(&[], 0.5)]],
}];

const NAMES: &[Names] = &[same("layers.#.mlp.gate_up_proj", "blk.#.ffn_up")];
