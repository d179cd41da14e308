//! SmolLM 3: LLaMA with every fourth layer free of rotation.

use crate::model::checkpoint::{Checkpoint, DECODER, PAIRS, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::unscaled(h)?.no_rope(|i, _| (i + 1).is_multiple_of(4)).attention_scale(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["SmolLM3ForCausalLM"],
    arch: "smollm3",
    when: When::Always,
    tensors: &[PAIRS, DECODER],
    keys: &[VOCAB, ROTARY_ALL],
}];
