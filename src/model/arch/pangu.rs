//! openPangu Embedded (arXiv:2505.22375).

use crate::model::checkpoint::{Checkpoint, DECODER, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    Ok(spec.each_rope(|_, rope| rope.freq_factors = false))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["PanguEmbeddedForCausalLM"],
    arch: "pangu-embedded",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[VOCAB, ROTARY_ALL],
}];
