//! Orion (arXiv:2401.12246): LLaMA with layer norms.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["OrionForCausalLM"],
    arch: "orion",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[&[
        Key::Float("attention.layer_norm_epsilon", &["rms_norm_eps"]),
        Key::Without("attention.layer_norm_rms_epsilon"),
    ]],
}];
