//! Granite 3 and 4 without state (arXiv:2405.04324): LLaMA with factors everywhere, experts if the
//! metadata counts some.

use crate::model::checkpoint::{
    Checkpoint, DECODER, GATE_UP_EXPERTS, Key, Names, PAIRS, ROTARY_ALL, Rows, VOCAB, When, same,
    split,
};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.shared_expert(h)?.scaled(h)?.logit_scale(h)?;
    spec.head.scale = 1.0 / spec.head.scale;
    let rotates = h.bool("rope.scaling.finetuned")?.unwrap_or(true);
    Ok(spec.no_rope(|_, _| !rotates))
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["GraniteForCausalLM"],
        arch: "granite",
        when: When::Always,
        tensors: &[PAIRS, DECODER],
        keys: &[VOCAB, ROTARY_ALL, SCALES],
    },
    Checkpoint {
        classes: &["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"],
        arch: "granitemoe",
        when: When::Always,
        tensors: &[MOE, PAIRS, DECODER],
        keys: &[
            VOCAB,
            ROTARY_ALL,
            SCALES,
            &[Key::Int("expert_shared_feed_forward_length", &["shared_intermediate_size"])],
        ],
    },
];

/// Multipliers of Granite.
pub const SCALES: &[Key] = &[
    Key::Float("attention.scale", &["attention_multiplier"]),
    Key::Float("embedding_scale", &["embedding_multiplier"]),
    Key::Float("residual_scale", &["residual_multiplier"]),
    Key::Float("logit_scale", &["logits_scaling"]),
];

/// Experts of Granite.
pub const MOE: &[Names] = &[
    same("layers.#.block_sparse_moe.router.layer", "blk.#.ffn_gate_inp"),
    split("layers.#.block_sparse_moe.input_linear.weight", GATE_UP_EXPERTS),
    same("layers.#.block_sparse_moe.output_linear", "blk.#.ffn_down_exps"),
    split(
        "layers.#.shared_mlp.input_linear",
        &[("blk.#.ffn_gate_shexp", Rows::FirstHalf), ("blk.#.ffn_up_shexp", Rows::SecondHalf)],
    ),
    same("layers.#.shared_mlp.output_linear", "blk.#.ffn_down_shexp"),
];
