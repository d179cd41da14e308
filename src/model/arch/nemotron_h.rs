//! Nemotron-H, Nemotron Nano 2 and 3 (arXiv:2504.03624, arXiv:2512.20848): each layer is a state
//! space, attention without rotation, or a feed-forward part, dense or of experts.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, Op, VOCAB, When, laid, same};
use crate::model::{
    Activation, DenseGate, ExpertGating, Ffn, Hparams, Mixer, ModelError, ModelSpec, NormFormula,
    StateSpaceSpec,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    if h.f32("attention.layer_norm_rms_epsilon")?.is_some() {
        // Of the layers that draft further tokens.
        h.hide("attention.layer_norm_epsilon");
    }
    // The tensors say it too.
    let _ = h.u64("moe_latent_size")?;
    let n_ff = h.counts("feed_forward_length")?.unwrap_or_default();
    let spec = ModelSpec::llama_like(h)?.no_rope(|_, _| true);
    let spec = spec.act(Activation::ReluSqr).each_moe(|i, moe| {
        moe.gated = false;
        let rows = h.tensor_rows(&format!("blk.{i}.ffn_latent_down.weight"));
        moe.latent = rows.and_then(|rows| usize::try_from(rows).ok());
    });
    let spec = spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    let is_dense = |i: usize| !h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight"));
    let mut spec = spec.dense_where(h, is_dense)?.dense(Activation::ReluSqr, DenseGate::None);
    // Files that have one epsilon mean these norms, whatever its name.
    spec.norm = NormFormula::Rms;
    for (layer, n_ff) in spec.layers.iter_mut().zip(n_ff) {
        layer.norms.before_ffn = Some("attn_norm");
        if n_ff > 0 {
            layer.mixer = Mixer::None;
            continue;
        }
        layer.ffn = Ffn::None;
        if layer.mixer == Mixer::None {
            layer.mixer = Mixer::StateSpace(StateSpaceSpec::two(h)?);
        }
    }
    spec.attention_scale(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["NemotronHForCausalLM"],
        arch: "nemotron_h",
        when: When::Without(LAYERS, &["E", "moe"]),
        tensors: &[NAMES],
        keys: &[
            VOCAB,
            KEYS,
            &[
                Key::WhereIs("feed_forward_length", &["intermediate_size"], LAYERS, &["-", "mlp"]),
                Key::Without("expert_count"),
                Key::Without("expert_used_count"),
                Key::Without("expert_group_count"),
                Key::Without("expert_group_used_count"),
            ],
        ],
    },
    Checkpoint {
        classes: &["NemotronHForCausalLM"],
        arch: "nemotron_h_moe",
        when: When::Without(LAYERS, &["-", "mlp"]),
        tensors: &[EXPERTS, NAMES],
        keys: &[
            VOCAB,
            KEYS,
            &[
                Key::WhereIs(
                    "feed_forward_length",
                    &["moe_intermediate_size"],
                    LAYERS,
                    &["E", "moe"],
                ),
                Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
                Key::Int(
                    "expert_shared_feed_forward_length",
                    &["moe_shared_expert_intermediate_size"],
                ),
                Key::Int("expert_shared_count", &["n_shared_experts"]),
                Key::Flag("expert_weights_norm", &["norm_topk_prob"]),
                Key::Float("expert_weights_scale", &["routed_scaling_factor"]),
                Key::Int("moe_latent_size", &["moe_latent_size"]),
            ],
        ],
    },
];

/// States, and which layers attend.
const KEYS: &[Key] = &[
    Key::FloatElse(
        "attention.layer_norm_rms_epsilon",
        &["rms_norm_eps", "norm_eps", "layer_norm_epsilon"],
        1e-5,
    ),
    // Of the layers that draft; llama.cpp asks for it.
    Key::FloatElse(
        "attention.layer_norm_epsilon",
        &["layer_norm_epsilon", "norm_eps", "rms_norm_eps"],
        1e-5,
    ),
    Key::Int("ssm.conv_kernel", &["conv_kernel", "mamba_d_conv"]),
    Key::Int("ssm.state_size", &["ssm_state_size"]),
    Key::Int("ssm.group_count", &["n_groups"]),
    Key::Product("ssm.inner_size", &["mamba_num_heads"], &["mamba_head_dim"]),
    Key::Int("ssm.time_step_rank", &["mamba_num_heads"]),
    Key::WhereIs(
        "attention.head_count_kv",
        &["num_key_value_heads"],
        LAYERS,
        &["*", "attention", "full_attention"],
    ),
];

/// Entries that say what each layer is.
const LAYERS: &[&str] = &["hybrid_override_pattern", "layers_block_type"];

const EXPERTS: &[Names] = &[
    same("layers.#.mixer.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.mixer.gate.e_score_correction_bias", "blk.#.exp_probs_b.bias"),
    same("layers.#.mixer.experts.@.up_proj", "blk.#.ffn_up_exps"),
    same("layers.#.mixer.experts.@.down_proj", "blk.#.ffn_down_exps"),
    same("layers.#.mixer.shared_experts.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.mixer.shared_experts.down_proj", "blk.#.ffn_down_shexp"),
    same("layers.#.mixer.fc1_latent_proj", "blk.#.ffn_latent_down"),
    same("layers.#.mixer.fc2_latent_proj", "blk.#.ffn_latent_up"),
];

const NAMES: &[Names] = &[
    same("embeddings", "token_embd"),
    same("lm_head", "output"),
    same("norm_f", "output_norm"),
    same("layers.#.norm", "blk.#.attn_norm"),
    same("layers.#.mixer.q_proj", "blk.#.attn_q"),
    same("layers.#.mixer.k_proj", "blk.#.attn_k"),
    same("layers.#.mixer.v_proj", "blk.#.attn_v"),
    same("layers.#.mixer.o_proj", "blk.#.attn_output"),
    same("layers.#.mixer.up_proj", "blk.#.ffn_up"),
    same("layers.#.mixer.down_proj", "blk.#.ffn_down"),
    same("layers.#.mixer.in_proj", "blk.#.ssm_in"),
    laid("layers.#.mixer.conv1d", "blk.#.ssm_conv1d", Layout::Squeezed),
    same("layers.#.mixer.dt_bias", "blk.#.ssm_dt.bias"),
    laid("layers.#.mixer.A_log", "blk.#.ssm_a", Layout::Column).op(Op::NegExp),
    laid("layers.#.mixer.D", "blk.#.ssm_d", Layout::Column),
    laid("layers.#.mixer.norm", "blk.#.ssm_norm", Layout::Groups),
    same("layers.#.mixer.out_proj", "blk.#.ssm_out"),
];
