//! Granite with sliding windows and attention sinks.

use crate::model::checkpoint::{
    Checkpoint, DECODER, GATE_UP_EXPERTS, Key, Names, PAIRS, ROTARY_ALL, VOCAB, When, same, split,
};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.shared_expert(h)?.scaled(h)?.logit_scale(h)?;
    spec.head.scale = 1.0 / spec.head.scale;
    let turning = h.pattern("attention.rope_pattern", 0)?;
    Ok(spec.sliding(h, 0, None)?.sinks().no_rope(|i, _| !turning[i]))
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["GraniteSWAForCausalLM"],
        arch: "granite_swa",
        when: When::Always,
        tensors: &[SINKS, PAIRS, DECODER],
        keys: &[VOCAB, ROTARY_ALL, super::granite::SCALES, KEYS],
    },
    Checkpoint {
        classes: &["GraniteMoeSWAForCausalLM"],
        arch: "granite_swa",
        when: When::Always,
        tensors: &[SINKS, EXPERTS, super::granite::MOE, PAIRS, DECODER],
        keys: &[
            VOCAB,
            ROTARY_ALL,
            super::granite::SCALES,
            KEYS,
            &[Key::Int("expert_shared_feed_forward_length", &["shared_intermediate_size"])],
        ],
    },
];

const KEYS: &[Key] = &[
    Key::Int("attention.sliding_window", &["sliding_window"]),
    Key::Needs("layer_types"),
    Key::Windows("attention.sliding_window_pattern"),
    Key::Turning("attention.rope_pattern", "no_rope_layers"),
    Key::Turning("attention.rope_pattern", "layer_rope_theta"),
];

const SINKS: &[Names] = &[same("layers.#.self_attn.sinks", "blk.#.attn_sinks.weight")];

/// Experts as transformers stores them now.
const EXPERTS: &[Names] = &[
    same("layers.#.block_sparse_moe.router", "blk.#.ffn_gate_inp"),
    split("layers.#.block_sparse_moe.experts.gate_up_proj", GATE_UP_EXPERTS),
    same("layers.#.block_sparse_moe.experts.down_proj", "blk.#.ffn_down_exps.weight"),
];
