//! Granite with sliding windows and attention sinks.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Names, PAIRS, ROTARY_ALL, VOCAB, When, same,
};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.shared_expert(h)?.scaled(h)?.logit_scale(h)?;
    spec.head.scale = 1.0 / spec.head.scale;
    Ok(spec.sliding(h, 0, None)?.sinks())
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GraniteSWAForCausalLM"],
    arch: "granite_swa",
    when: When::Always,
    tensors: &[SINKS, PAIRS, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        super::granite::SCALES,
        &[
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::Pattern("attention.sliding_window_pattern", "layer_types", "sliding_attention"),
            Key::MustBeUniform("layer_rope_theta"),
            Key::MustBeUniform("no_rope_layers"),
            Key::MustEqual("no_rope_layers.0", 1.0),
        ],
    ],
}];

const SINKS: &[Names] = &[same("layers.#.self_attn.sinks", "blk.#.attn_sinks.weight")];
