//! XVERSE.

use crate::model::checkpoint::{Checkpoint, DECODER, PAIRS, ROTARY_ALL, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::unscaled(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["XverseForCausalLM"],
    arch: "xverse",
    when: When::Always,
    tensors: &[PAIRS, DECODER],
    keys: &[ROTARY_ALL],
}];
