//! Jamba (arXiv:2403.19887): Mamba with a few layers of attention without rotation.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Layout, Names, Op, When, changed, laid, same,
};
use crate::model::{Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let space = Mixer::StateSpace(StateSpaceSpec::one(h)?);
    let spec = ModelSpec::unscaled(h)?.no_rope(|_, _| true).recurrent(&space);
    let spec = spec.each_moe(|_, moe| moe.normalize_weights = false);
    spec.dense_where(h, |i| !h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight")))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["JambaForCausalLM"],
    arch: "jamba",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[&[
        Key::IntElse("ssm.conv_kernel", &["mamba_d_conv"], 4),
        Key::Product("ssm.inner_size", &["mamba_expand"], &["hidden_size"]),
        Key::IntElse("ssm.state_size", &["mamba_d_state"], 16),
        Key::Int("ssm.time_step_rank", &["mamba_dt_rank"]),
        Key::EveryNth(
            "attention.head_count_kv",
            &["num_key_value_heads"],
            "attn_layer_period",
            "attn_layer_offset",
        ),
    ]],
}];

const NAMES: &[Names] = &[
    same("final_layernorm", "output_norm"),
    same("layers.#.pre_ff_layernorm", "blk.#.ffn_norm"),
    same("layers.#.feed_forward.router", "blk.#.ffn_gate_inp"),
    same("layers.#.feed_forward.experts.@.gate_proj", "blk.#.ffn_gate_exps"),
    same("layers.#.feed_forward.experts.@.up_proj", "blk.#.ffn_up_exps"),
    same("layers.#.feed_forward.experts.@.down_proj", "blk.#.ffn_down_exps"),
    same("layers.#.feed_forward.gate_proj", "blk.#.ffn_gate"),
    same("layers.#.feed_forward.up_proj", "blk.#.ffn_up"),
    same("layers.#.feed_forward.down_proj", "blk.#.ffn_down"),
    same("layers.#.mamba.in_proj", "blk.#.ssm_in"),
    laid("layers.#.mamba.conv1d", "blk.#.ssm_conv1d", Layout::Squeezed),
    same("layers.#.mamba.x_proj", "blk.#.ssm_x"),
    same("layers.#.mamba.dt_proj", "blk.#.ssm_dt"),
    same("layers.#.mamba.dt_layernorm", "blk.#.ssm_dt_norm"),
    same("layers.#.mamba.b_layernorm", "blk.#.ssm_b_norm"),
    same("layers.#.mamba.c_layernorm", "blk.#.ssm_c_norm"),
    changed("layers.#.mamba.A_log", "blk.#.ssm_a", Op::NegExp),
    same("layers.#.mamba.D", "blk.#.ssm_d"),
    same("layers.#.mamba.out_proj", "blk.#.ssm_out"),
];
