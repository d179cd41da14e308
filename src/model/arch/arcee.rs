//! AFM 4.5B (Arcee): LLaMA with squared ReLU without a gate.

use crate::model::checkpoint::{Checkpoint, DECODER, PAIRS, ROTARY_ALL, VOCAB, When};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.attention_scale(h)?;
    Ok(spec.dense(Activation::ReluSqr, DenseGate::None))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["ArceeForCausalLM"],
    arch: "arcee",
    when: When::Always,
    tensors: &[PAIRS, DECODER],
    keys: &[VOCAB, ROTARY_ALL],
}];
