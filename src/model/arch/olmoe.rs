//! OLMoE (arXiv:2409.02060): norms of all queries and keys, weights as the softmax has them.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, When};
use crate::model::{Hparams, ModelError, ModelSpec, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::Whole);
    Ok(spec.each_moe(|_, moe| moe.normalize_weights = false))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["OlmoeForCausalLM"],
    arch: "olmoe",
    when: When::Always,
    tensors: &[EXPERTS, DECODER],
    keys: &[&[Key::FloatElse("attention.layer_norm_rms_epsilon", &["rms_norm_eps"], 1e-5)]],
}];
