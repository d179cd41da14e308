//! Kimi Linear (arXiv:2510.26692): Kimi Delta Attention, every fourth layer latent attention
//! without rotation.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Layout, Names, Op, VOCAB, When, laid, same,
};
use crate::model::{DeltaDecay, DeltaSpec, ExpertGating, Hparams, Mixer, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let delta = DeltaSpec::channels(h, DeltaDecay::Channels)?;
    let spec = ModelSpec::unscaled(h)?.mla(h)?.each_mla(|_, latent| latent.rope = None);
    let spec = spec.recurrent(&Mixer::Delta(delta)).shared_expert(h)?;
    let spec = spec.expert_gating(h, ExpertGating::Sigmoid)?;
    spec.each_moe(|_, moe| moe.normalize_weights = true).dense_lead(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["KimiLinearForCausalLM", "KimiLinearModel"],
    arch: "kimi-linear",
    when: When::Always,
    tensors: &[DELTA, super::deepseek2::LATENTS, super::llama::MIXTRAL, FFN, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::Int("attention.q_lora_rank", &["q_lora_rank"]),
            Key::Int("attention.kv_lora_rank", &["kv_lora_rank"]),
            Key::Sum("attention.key_length", &["kv_lora_rank"], &["qk_rope_head_dim"]),
            Key::Int("attention.value_length", &["kv_lora_rank"]),
            Key::Sum("attention.key_length_mla", &["qk_nope_head_dim"], &["qk_rope_head_dim"]),
            Key::Int("attention.value_length_mla", &["v_head_dim"]),
            Key::Int("rope.dimension_count", &["qk_rope_head_dim"]),
            Key::OneWhere(
                "attention.head_count_kv",
                "layer_types",
                "full_attention",
                "linear_attn_config.full_attn_layers",
            ),
            Key::Int(
                "ssm.conv_kernel",
                &["linear_conv_kernel_dim", "linear_attn_config.short_conv_kernel_size"],
            ),
            Key::Int("kda.head_dim", &["linear_head_dim", "linear_attn_config.head_dim"]),
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::Int("expert_shared_count", &["num_shared_experts"]),
            Key::Leading("leading_dense_block_count", "mlp_layer_types", "dense"),
            Key::Int("leading_dense_block_count", &["first_k_dense_replace"]),
            Key::Float("expert_weights_scale", &["routed_scaling_factor"]),
            Key::IntDefault("expert_gating_func", 2),
            Key::MustBe("moe_renormalize", true),
        ],
    ],
}];

/// Kimi Delta Attention.
const DELTA: &[Names] = &[
    laid("layers.#.self_attn.A_log", "blk.#.ssm_a", Layout::Column).op(Op::NegExp),
    same("layers.#.self_attn.dt_bias", "blk.#.ssm_dt.bias"),
    same("layers.#.self_attn.f_a_proj", "blk.#.ssm_f_a"),
    same("layers.#.self_attn.f_b_proj", "blk.#.ssm_f_b"),
    same("layers.#.self_attn.g_a_proj", "blk.#.ssm_g_a"),
    same("layers.#.self_attn.g_b_proj", "blk.#.ssm_g_b"),
    same("layers.#.self_attn.b_proj", "blk.#.ssm_beta"),
    same("layers.#.self_attn.o_norm", "blk.#.ssm_norm"),
    same("layers.#.self_attn.q_conv1d", "blk.#.ssm_conv1d_q"),
    same("layers.#.self_attn.k_conv1d", "blk.#.ssm_conv1d_k"),
    same("layers.#.self_attn.v_conv1d", "blk.#.ssm_conv1d_v"),
];

/// Dense layers and experts, which are named after those of Mixtral.
const FFN: &[Names] = &[
    same("layers.#.block_sparse_moe.gate.e_score_correction_bias", "blk.#.exp_probs_b.bias"),
    same("layers.#.block_sparse_moe.gate_proj", "blk.#.ffn_gate"),
    same("layers.#.block_sparse_moe.up_proj", "blk.#.ffn_up"),
    same("layers.#.block_sparse_moe.down_proj", "blk.#.ffn_down"),
    same("layers.#.block_sparse_moe.shared_experts.gate_proj", "blk.#.ffn_gate_shexp"),
    same("layers.#.block_sparse_moe.shared_experts.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.block_sparse_moe.shared_experts.down_proj", "blk.#.ffn_down_shexp"),
];
