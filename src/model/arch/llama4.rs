//! Llama 4, text: experts weigh their inputs, every fourth layer is free of rotation. Contexts are
//! bounded to one chunk of attention, within which scores need no temperature either.

use crate::model::checkpoint::{
    Checkpoint, DECODER, GATE_UP_EXPERTS, Key, Layout, Names, ROTARY_ALL, VOCAB, When, laid, same,
};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, QkNorm, SharedExpert, Weigh};

/// Experts of Maverick, which alone does not norm queries and keys.
const EXPERTS_MAVERICK: u64 = 128;
/// Positions of a chunk, within which attention is full.
const CHUNK: usize = 8192;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    for key in ["attention.sliding_window", "attention.temperature_scale"] {
        let _ = h.f32(key).or_else(|_| h.u64(key).map(|n| n.map(|n| n as f32)))?;
    }
    let _ = h.pattern("attention.sliding_window_pattern", 4)?;
    let step = h.length("interleave_moe_layer_step")?;
    let mut spec = ModelSpec::unscaled(h)?.no_rope(|i, _| (i + 1).is_multiple_of(4));
    spec.n_ctx_max = Some(CHUNK - 1);
    let normed = h.u64("expert_count")? != Some(EXPERTS_MAVERICK);
    let spec = spec.each_attention(|_, attention| {
        if normed && attention.rope.is_some() {
            attention.qk_norm = QkNorm::BareHeadsAfterRope;
        }
    });
    let spec = spec.attention_scale(h)?.each_moe(|_, moe| {
        moe.gating = ExpertGating::Sigmoid;
        moe.normalize_weights = false;
        moe.weigh = Weigh::Inputs;
        moe.shared =
            Some(SharedExpert { n_ff: moe.n_ff, suffix: "_shexp", gated: false, clamp: None });
    });
    spec.dense_where(h, |i| !(i + 1).is_multiple_of(step))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
    arch: "llama4",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::Int("feed_forward_length", &["intermediate_size_mlp"]),
            Key::Int("expert_feed_forward_length", &["intermediate_size"]),
            Key::IntElse("interleave_moe_layer_step", &["interleave_moe_layer_step"], 1),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("layers.#.feed_forward.router", "blk.#.ffn_gate_inp"),
    laid(
        "layers.#.feed_forward.experts.gate_up_proj",
        "",
        Layout::TransposedSplit(GATE_UP_EXPERTS),
    ),
    laid(
        "layers.#.feed_forward.experts.down_proj",
        "blk.#.ffn_down_exps.weight",
        Layout::Transposed,
    ),
    same("layers.#.feed_forward.shared_expert.gate_proj", "blk.#.ffn_gate_shexp"),
    same("layers.#.feed_forward.shared_expert.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.feed_forward.shared_expert.down_proj", "blk.#.ffn_down_shexp"),
    same("layers.#.feed_forward.gate_proj", "blk.#.ffn_gate"),
    same("layers.#.feed_forward.up_proj", "blk.#.ffn_up"),
    same("layers.#.feed_forward.down_proj", "blk.#.ffn_down"),
];
