//! gpt-oss (arXiv:2508.10925): attention sinks, sliding windows in every other layer, clamped experts
//! with biases.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Layout, Names, Rows, When, laid, same};
use crate::model::{
    Activation, ExpertGating, GluClamp, Hparams, ModelError, ModelSpec, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).sliding(h, 2, None)?.sinks();
    spec.layers.iter_mut().for_each(|l| l.norms.before_ffn = Some("post_attention_norm"));
    Ok(spec.each_moe(|_, moe| {
        moe.act = Activation::GeluQuick;
        moe.clamp = Some(GluClamp::both(7.0, 1.0));
        moe.gating = ExpertGating::SoftmaxOfChosen;
        moe.normalize_weights = false;
    }))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GptOssForCausalLM"],
    arch: "gpt-oss",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[&[
        Key::Int("attention.sliding_window", &["sliding_window"]),
        Key::Int("expert_feed_forward_length", &["intermediate_size"]),
    ]],
}];

const NAMES: &[Names] = &[
    same("layers.#.post_attention_layernorm", "blk.#.post_attention_norm"),
    same("layers.#.self_attn.sinks", "blk.#.attn_sinks.weight"),
    same("layers.#.mlp.router", "blk.#.ffn_gate_inp"),
    laid(
        "layers.#.mlp.experts.gate_up_proj",
        "",
        Layout::TransposedSplit(&[
            ("blk.#.ffn_gate_exps.weight", Rows::Even),
            ("blk.#.ffn_up_exps.weight", Rows::Odd),
        ]),
    ),
    laid(
        "layers.#.mlp.experts.gate_up_proj_bias",
        "",
        Layout::SplitColumns(&[
            ("blk.#.ffn_gate_exps.bias", Rows::Even),
            ("blk.#.ffn_up_exps.bias", Rows::Odd),
        ]),
    ),
    laid("layers.#.mlp.experts.down_proj", "blk.#.ffn_down_exps.weight", Layout::Transposed),
    same("layers.#.mlp.experts.down_proj_bias", "blk.#.ffn_down_exps.bias"),
];
