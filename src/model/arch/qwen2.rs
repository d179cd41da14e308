//! Qwen 1.5, 2 and 2.5, dense (arXiv:2407.10671): LLaMA with biases on queries, keys and values.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::llama_like(h)?.rope(RopePairing::Neox).ignore_ffn_scales())
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Qwen2ForCausalLM", "Qwen2Model", "KORMoForCausalLM", "DotsOCRForCausalLM"],
    arch: "qwen2",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[&[Key::Pooling]],
}];
