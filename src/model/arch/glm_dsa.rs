//! GLM 5 within contexts that its indexer would choose all of: there sparse attention is attention.

use super::deepseek2::deepseek;
use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, VOCAB, When};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    h.hide("attention.indexer.types");
    let mut spec = deepseek(h, ExpertGating::Sigmoid, |_| 1.0)?.apply_ffn_scales();
    spec.dense_within(h)?;
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GlmMoeDsaForCausalLM"],
    arch: "glm-dsa",
    when: When::Always,
    tensors: &[super::deepseek32::INDEXER, super::deepseek2::LATENTS, EXPERTS, DECODER],
    keys: &[VOCAB, super::deepseek2::KEYS, super::deepseek32::INDEXER_KEYS],
}];
