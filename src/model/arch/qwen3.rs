//! Qwen 3, dense (arXiv:2505.09388): norms of query and key heads.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, When};
use crate::model::{Activation, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm();
    spec.classifier(h, Activation::Tanh, true)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Qwen3ForCausalLM", "Qwen3Model"],
    arch: "qwen3",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[&[Key::Pooling]],
}];
