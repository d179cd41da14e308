//! Falcon-H1 (arXiv:2507.22448): attention and Mamba 2 side by side.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Layout, Names, Op, VOCAB, When, laid, same,
};
use crate::model::{Hparams, Mixer, ModelError, ModelSpec, RopePairing, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let space = StateSpaceSpec::two(h)?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).ignore_output_bias();
    let mut spec = spec.each_rope(|_, rope| rope.freq_factors = false).attention_scale(h)?;
    for layer in &mut spec.layers {
        if let Mixer::Attention(attention) = &layer.mixer {
            layer.mixer = Mixer::AttentionAndStateSpace(attention.clone(), space.clone());
        }
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["FalconH1ForCausalLM"],
    arch: "falcon-h1",
    when: When::Always,
    tensors: &[NAMES, STATES, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::MustBeWhen("mamba_rms_norm", "mamba_norm_before_gate", false),
            Key::Int("ssm.conv_kernel", &["mamba_d_conv"]),
            Key::Int("ssm.state_size", &["mamba_d_state"]),
            Key::Int("ssm.group_count", &["mamba_n_groups"]),
            Key::Int("ssm.inner_size", &["mamba_d_ssm"]),
            Key::Int("ssm.time_step_rank", &["mamba_n_heads"]),
        ],
    ],
}];

/// Products with the multipliers of muP, which GGUF has in the weights.
const NAMES: &[Names] = &[
    same("embed_tokens", "token_embd").scaled(&["embedding_multiplier"]),
    same("lm_head", "output").scaled(&["lm_head_multiplier"]),
    same("final_layernorm", "output_norm"),
    same("layers.#.pre_ff_layernorm", "blk.#.ffn_norm"),
    same("layers.#.self_attn.q_proj", "blk.#.attn_q").scaled(&["attention_in_multiplier"]),
    same("layers.#.self_attn.k_proj", "blk.#.attn_k")
        .scaled(&["attention_in_multiplier", "key_multiplier"]),
    same("layers.#.self_attn.v_proj", "blk.#.attn_v").scaled(&["attention_in_multiplier"]),
    same("layers.#.self_attn.o_proj", "blk.#.attn_output").scaled(&["attention_out_multiplier"]),
    same("layers.#.feed_forward.gate_proj", "blk.#.ffn_gate").scaled(&["mlp_multipliers.0"]),
    same("layers.#.feed_forward.up_proj", "blk.#.ffn_up"),
    same("layers.#.feed_forward.down_proj", "blk.#.ffn_down").scaled(&["mlp_multipliers.1"]),
    laid("layers.#.mamba.in_proj", "blk.#.ssm_in", Layout::StateRuns("ssm_multipliers"))
        .scaled(&["ssm_in_multiplier"]),
    same("layers.#.mamba.out_proj", "blk.#.ssm_out").scaled(&["ssm_out_multiplier"]),
];

/// State spaces of Mamba 2.
pub const STATES: &[Names] = &[
    same("layers.#.mamba.in_proj", "blk.#.ssm_in"),
    laid("layers.#.mamba.conv1d", "blk.#.ssm_conv1d", Layout::Squeezed),
    same("layers.#.mamba.dt_bias", "blk.#.ssm_dt.bias"),
    laid("layers.#.mamba.A_log", "blk.#.ssm_a", Layout::Column).op(Op::NegExp),
    laid("layers.#.mamba.D", "blk.#.ssm_d", Layout::Column),
    laid("layers.#.mamba.norm", "blk.#.ssm_norm", Layout::Groups),
    same("layers.#.mamba.out_proj", "blk.#.ssm_out"),
];
