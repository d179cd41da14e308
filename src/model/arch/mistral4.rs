//! Mistral 4: DeepSeek's shape.

use super::deepseek2::{KEYS, LATENTS, deepseek};
use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, VOCAB, When};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    deepseek(h, ExpertGating::Softmax, |_| 1.0)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Mistral3ForConditionalGeneration"],
        arch: "mistral4",
        when: When::Is("model_type", "mistral4"),
        tensors: &[LATENTS, EXPERTS, DECODER],
        keys: &[VOCAB, KEYS, TEMPERATURE],
    },
    Checkpoint {
        classes: &["Mistral4ForCausalLM"],
        arch: "mistral4",
        when: When::Always,
        tensors: &[LATENTS, EXPERTS, DECODER],
        keys: &[VOCAB, KEYS, TEMPERATURE],
    },
];

/// Queries that grow with the position.
const TEMPERATURE: &[Key] = &[
    Key::Rope("attention.temperature_scale", "llama_4_scaling_beta", 1.0),
    Key::Int(
        "attention.temperature_length",
        &[
            "rope_parameters.original_max_position_embeddings",
            "rope_scaling.original_max_position_embeddings",
        ],
    ),
    Key::MustBe("rope_interleave", true),
];
