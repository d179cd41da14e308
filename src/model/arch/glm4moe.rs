//! GLM 4.5 (arXiv:2508.06471).

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, When, same};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    if h.has_tensor("blk.0.attn_q_norm.weight") {
        spec = spec.qk_norm();
    }
    spec.layers.iter_mut().for_each(|l| l.norms.before_ffn = Some("post_attention_norm"));
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?.dense_lead(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"],
        arch: "glm4moe",
        when: When::Always,
        tensors: &[NAMES, EXPERTS, DECODER],
        keys: &[super::dots1::KEYS, &[Key::RotaryShare(&[], 0.5)]],
    },
    Checkpoint {
        classes: &["SolarOpenForCausalLM"],
        arch: "glm4moe",
        when: When::Always,
        tensors: &[NAMES, EXPERTS, DECODER],
        keys: &[super::dots1::KEYS, &[Key::RotaryShare(&[], 1.0)]],
    },
];

const NAMES: &[Names] = &[same("layers.#.post_attention_layernorm", "blk.#.post_attention_norm")];
