//! Qwen 3 MoE (arXiv:2505.09388).

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm())
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Qwen3MoeForCausalLM"],
    arch: "qwen3moe",
    when: When::Always,
    tensors: &[EXPERTS, DECODER],
    keys: &[super::qwen2moe::EXPERT_WIDTHS],
}];
