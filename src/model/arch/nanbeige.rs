//! Nanbeige 4: LLaMA; models that loop over their layers are refused.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, PAIRS, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::llama_like(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["NanbeigeForCausalLM"],
    arch: "nanbeige",
    when: When::Always,
    tensors: &[PAIRS, DECODER],
    keys: &[VOCAB, ROTARY_ALL, &[Key::MustEqual("num_loops", 1.0)]],
}];
