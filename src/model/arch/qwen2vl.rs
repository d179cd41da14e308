//! Qwen 2 VL and 2.5 VL (arXiv:2409.12191), the text part.

use crate::model::checkpoint::{Checkpoint, DECODER, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &[
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLModel",
        "Qwen2_5OmniForConditionalGeneration",
        "Qwen2_5OmniModel",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
    ],
    arch: "qwen2vl",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[],
}];
