//! Ministral 3 and Mistral 3: LLaMA with a YaRN of its own and queries that grow with the position.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, PAIRS, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let all = h.f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let n_ctx_orig = h.optional_length("rope.scaling.original_context_length")?;
    let spec = ModelSpec::llama_like(h)?.temperature(h, n_ctx_orig.unwrap_or(h.n_ctx_train))?;
    Ok(spec.each_rope(|_, rope| rope.magnitude /= rope.scaling.mscale(all)))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"],
    arch: "mistral3",
    when: When::Always,
    tensors: &[super::llama::MIXTRAL, PAIRS, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::Rope("rope.scaling.yarn_log_multiplier", "mscale_all_dim", 1.0),
            Key::Rope("attention.temperature_scale", "llama_4_scaling_beta", 1.0),
        ],
    ],
}];
