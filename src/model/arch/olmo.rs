//! OLMo (arXiv:2402.00838): layer norms without parameters.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, PAIRS, When};
use crate::model::{Hparams, ModelError, ModelSpec, NormFormula};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.clamped(h)?;
    spec.norm = NormFormula::BareLayer;
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["OlmoForCausalLM", "OLMoForCausalLM"],
    arch: "olmo",
    when: When::Always,
    tensors: &[PAIRS, DECODER],
    keys: &[&[
        Key::FloatIs("attention.layer_norm_epsilon", 1e-5),
        Key::Float("attention.clamp_kqv", &["clip_qkv"]),
    ]],
}];
