//! GLM 4 (arXiv:2406.12793): norms around everything.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{
    Activation, DenseGate, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let pairing = if h.rope_sections() { RopePairing::Neox } else { RopePairing::Norm };
    let spec = ModelSpec::unscaled(h)?.rope(pairing).norms(NormPlacement::PRE_AND_POST);
    Ok(spec.dense(Activation::Silu, DenseGate::InUp))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &[
        "Glm4ForCausalLM",
        "Glm4vForConditionalGeneration",
        "GlmOcrForConditionalGeneration",
    ],
    arch: "glm4",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    // Text has the same position in all sections; with them, pairs would have to be halves.
    keys: &[&[Key::RotaryShare(&[], 0.5), Key::Without("rope.dimension_sections")]],
}];

const NAMES: &[Names] = &[
    same("layers.#.post_self_attn_layernorm", "blk.#.post_attention_norm"),
    same("layers.#.post_mlp_layernorm", "blk.#.post_ffw_norm"),
    same("layers.#.mlp.gate_up_proj", "blk.#.ffn_up"),
];
