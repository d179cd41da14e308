//! Nemotron 4 and Minitron (arXiv:2402.16819): layer norms, squared ReLU without a gate.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, Op, VOCAB, When, changed};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    Ok(spec.dense(Activation::ReluSqr, DenseGate::None))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["NemotronForCausalLM"],
    arch: "nemotron",
    when: When::Always,
    tensors: &[NORMS, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::FloatElse(
                "attention.layer_norm_epsilon",
                &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"],
                1e-5,
            ),
            Key::RotaryShare(&[], 0.5),
            Key::TextIs("rope.scaling.type", "none"),
        ],
    ],
}];

/// Norms, which multiply by 1 + w; their biases stay.
const NORMS: &[Names] = &[
    changed("norm.weight", "output_norm.weight", Op::PlusOne),
    changed("layers.#.input_layernorm.weight", "blk.#.attn_norm.weight", Op::PlusOne),
    changed("layers.#.post_attention_layernorm.weight", "blk.#.ffn_norm.weight", Op::PlusOne),
];
