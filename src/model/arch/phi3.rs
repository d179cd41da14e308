//! Phi 3 and 4, dense (arXiv:2404.14219): gate and up projection in one tensor, LongRoPE.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp);
    Ok(spec.window_everywhere(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Phi3ForCausalLM", "Phi4ForCausalLMV"],
    arch: "phi3",
    when: When::Always,
    tensors: &[FUSED, DECODER],
    keys: &[ROTATION, KEYS],
}];

/// Products that are one.
const FUSED: &[Names] = &[
    same("layers.#.self_attn.qkv_proj", "blk.#.attn_qkv"),
    same("layers.#.mlp.gate_up_proj", "blk.#.ffn_up"),
];

/// Rotation.
const ROTATION: &[Key] = &[
    Key::RotaryShare(&[], 1.0),
    Key::Int(
        "rope.scaling.original_context_length",
        &["original_max_position_embeddings", "max_position_embeddings"],
    ),
];

const KEYS: &[Key] = &[Key::IntElse("attention.sliding_window", &["sliding_window"], 0)];
