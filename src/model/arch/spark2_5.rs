//! Spark 2.5 (iFlytek): a gate of each head, sliding windows.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, VOCAB, When, same};
use crate::model::{Activation, AttentionGate, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).sliding(h, 0, None)?;
    let spec = spec.act(Activation::Gelu);
    Ok(spec.each_attention(|_, attention| attention.gate = AttentionGate::Heads))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Spark2_5ForCausalLM"],
    arch: "spark2_5",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::RotaryShare(&[], 1.0),
            Key::WindowRotary,
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::Needs("layer_types"),
            Key::Windows("attention.sliding_window_pattern"),
            Key::MustBeText("gate_attn_act_mode", "sigmoid"),
            Key::MustBe("headwise_attn_output_gate", true),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("layers.#.self_attn.q_k_v_proj", "blk.#.attn_qkv"),
    same("layers.#.self_attn.g_proj", "blk.#.attn_gate"),
];
