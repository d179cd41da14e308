//! Phi 3.5 MoE (arXiv:2404.14219): norms with biases, LongRoPE as in Phi 3.

use crate::model::checkpoint::{Checkpoint, DECODER, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["PhimoeForCausalLM", "PhiMoEForCausalLM"],
    arch: "phimoe",
    when: When::Always,
    tensors: &[super::llama::MIXTRAL, DECODER],
    keys: &[super::phi3::ROTATION],
}];
