//! Mamba (arXiv:2312.00752) and Falcon Mamba: state spaces alone.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, Op, When, changed, laid, same};
use crate::model::{Ffn, Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    state_spaces(h, StateSpaceSpec::one(h)?)
}

/// Mamba 2 (arXiv:2405.21060).
pub fn spec2(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    state_spaces(h, StateSpaceSpec::two(h)?)
}

fn state_spaces(h: &Hparams<'_>, space: StateSpaceSpec) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let mut spec = ModelSpec::unscaled(h)?;
    for layer in &mut spec.layers {
        (layer.mixer, layer.ffn) = (Mixer::StateSpace(space.clone()), Ffn::None);
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["MambaForCausalLM", "MambaLMHeadModel", "FalconMambaForCausalLM"],
        arch: "mamba",
        when: When::Always,
        tensors: &[FIRST, NAMES],
        keys: &[
            STATES,
            &[
                Key::Int("ssm.time_step_rank", &["time_step_rank", "dt_rank"]),
                Key::IntElse("ssm.state_size", &["state_size", "d_state"], 16),
                Key::FlagWhen("ssm.dt_b_c_rms", "model_type", "falcon_mamba"),
            ],
        ],
    },
    Checkpoint {
        classes: &["Mamba2ForCausalLM"],
        arch: "mamba2",
        when: When::Always,
        tensors: &[SECOND, NAMES],
        keys: &[
            &[
                Key::Product("ssm.inner_size", &["expand"], &["hidden_size", "d_model", "dim"]),
                Key::Int("ssm.inner_size", &["intermediate_size", "d_inner"]),
                Key::Product("ssm.inner_size", &["num_heads"], &["head_dim"]),
                Key::Int("ssm.time_step_rank", &["num_heads"]),
                Key::IntElse("ssm.state_size", &["state_size", "d_state"], 128),
                Key::IntElse("ssm.group_count", &["n_groups"], 1),
                Key::Without("attention.key_length"),
                Key::Without("attention.value_length"),
                Key::Without("attention.head_count_kv"),
            ],
            STATES,
        ],
    },
];

const STATES: &[Key] = &[
    Key::IntIs("context_length", 1 << 20),
    Key::IntIs("feed_forward_length", 0),
    Key::IntIs("attention.head_count", 0),
    Key::IntElse("ssm.conv_kernel", &["conv_kernel", "d_conv"], 4),
    Key::Int("ssm.inner_size", &["intermediate_size", "d_inner"]),
    Key::Without("attention.layer_norm_epsilon"),
    Key::FloatElse(
        "attention.layer_norm_rms_epsilon",
        &["layer_norm_epsilon", "rms_norm_eps"],
        1e-5,
    ),
];

const FIRST: &[Names] = &[
    changed("layers.#.mixer.A_log", "blk.#.ssm_a", Op::NegExp),
    same("layers.#.mixer.D", "blk.#.ssm_d"),
];

const SECOND: &[Names] = &[
    laid("layers.#.mixer.A_log", "blk.#.ssm_a", Layout::Column).op(Op::NegExp),
    laid("layers.#.mixer.D", "blk.#.ssm_d", Layout::Column),
    same("layers.#.mixer.dt_bias", "blk.#.ssm_dt.bias"),
    laid("layers.#.mixer.norm", "blk.#.ssm_norm", Layout::Groups),
];

const NAMES: &[Names] = &[
    same("embeddings", "token_embd"),
    same("embedding", "token_embd"),
    same("lm_head", "output"),
    same("norm_f", "output_norm"),
    same("layers.#.norm", "blk.#.attn_norm"),
    same("layers.#.mixer.in_proj", "blk.#.ssm_in"),
    laid("layers.#.mixer.conv1d", "blk.#.ssm_conv1d", Layout::Squeezed),
    same("layers.#.mixer.x_proj", "blk.#.ssm_x"),
    same("layers.#.mixer.dt_proj", "blk.#.ssm_dt"),
    same("layers.#.mixer.out_proj", "blk.#.ssm_out"),
];
