//! Llama as an encoder, such as Llama-Embed-Nemotron (arXiv:2511.07025).

use super::llama;
use crate::model::checkpoint::{Checkpoint, DECODER, Key, PAIRS, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    llama::spec(h)?.encoding(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["LlamaBidirectionalModel"],
    arch: "llama-embed",
    when: When::Always,
    tensors: &[PAIRS, DECODER],
    keys: &[VOCAB, ROTARY_ALL, &[Key::FlagIs("attention.causal", false), Key::Pooling]],
}];
