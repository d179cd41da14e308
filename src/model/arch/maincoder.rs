//! Maincoder: LLaMA with norms of query and key heads after the rotation.

use crate::model::checkpoint::{Checkpoint, DECODER, ROTARY_ALL, When};
use crate::model::{Hparams, ModelError, ModelSpec, QkNorm};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.qk_norms(QkNorm::HeadsAfterRope))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MaincoderForCausalLM"],
    arch: "maincoder",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[ROTARY_ALL],
}];
