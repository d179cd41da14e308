//! Jais 2: layer norms, squared ReLU without a gate.

use crate::model::checkpoint::{Checkpoint, DECODER, ROTARY_ALL, VOCAB, When};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    Ok(spec.dense(Activation::ReluSqr, DenseGate::None))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Jais2ForCausalLM"],
    arch: "jais2",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[VOCAB, ROTARY_ALL],
}];
