//! Ling 3: Kimi Delta Attention with a bounded decay, every few layers latent attention with a gate
//! of each head.

use super::bailingmoe;
use crate::model::checkpoint::{
    Checkpoint, EXPERTS, Key, Layout, Names, Op, Rows, VOCAB, When, dropped, laid, same, split,
};
use crate::model::{
    DeltaDecay, DeltaSpec, ExpertGating, GluClamp, Hparams, Mixer, ModelError, ModelSpec,
    RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    if h.bool("kda.safe_gate")? == Some(false) {
        return Err(h.bad("kda.safe_gate", "is false, not supported"));
    }
    let bound = h.f32("kda.gate_lower_bound")?.filter(|&bound| bound < 0.0);
    let bound = bound.ok_or_else(|| h.bad("kda.gate_lower_bound", "is not negative"))?;
    let delta = DeltaSpec::channels(h, DeltaDecay::BoundedChannels(bound))?;
    let pairing = if h.rope_sections() { RopePairing::Neox } else { RopePairing::Norm };
    let spec = ModelSpec::unscaled(h)?.mla(h)?.each_mla(|_, latent| latent.gate = true);
    let spec = spec.rope(pairing).recurrent(&Mixer::Delta(delta)).shared_expert(h)?;
    let spec = spec.expert_gating(h, ExpertGating::Sigmoid)?.dense_lead(h)?;
    let none = vec![0.0; h.n_layers];
    let of_experts = h.f32s("swiglu_clamp_exp")?.unwrap_or(none.clone());
    let of_dense = h.f32s("swiglu_clamp_shexp")?.unwrap_or(none);
    let mut spec = spec.each_moe(|i, moe| {
        moe.clamp = Some(GluClamp::after_silu(of_experts[i]));
        if let Some(shared) = &mut moe.shared {
            shared.clamp = Some(GluClamp::after_silu(of_dense[i]));
        }
    });
    for (layer, limit) in spec.layers.iter_mut().zip(of_dense) {
        if let crate::model::Ffn::Dense(dense) = &mut layer.ffn {
            dense.clamp = Some(GluClamp::after_silu(limit));
        }
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["BailingMoeV3ForCausalLM"],
        arch: "bailingmoe3",
        when: When::Always,
        tensors: &[NAMES, bailingmoe::NAMES, EXPERTS, DRAFTS],
        keys: &[VOCAB, KEYS],
    },
    Checkpoint {
        classes: &["BailingMoeV3VLForConditionalGeneration"],
        arch: "bailingmoe3",
        when: When::Always,
        tensors: &[NAMES, bailingmoe::NAMES, EXPERTS, DRAFTS, PICTURES],
        keys: &[VOCAB, KEYS, &[Key::Needs("mrope_section"), Key::Sections("mrope_section")]],
    },
];

/// Layers of one group, of which the last sees everything.
const GROUP: &str = "layer_group_size";

const KEYS: &[Key] = &[
    Key::Needs("no_kda_lora"),
    Key::MustBe("no_kda_lora", true),
    Key::Needs("kda_safe_gate"),
    Key::MustBe("kda_safe_gate", true),
    Key::Needs("gated_attention_proj_granularity_type"),
    Key::MustBeText("gated_attention_proj_granularity_type", "head_wise"),
    Key::OneAtGroupEnds("attention.head_count_kv", GROUP),
    Key::Int("ssm.conv_kernel", &["short_conv_kernel_size"]),
    Key::Int("kda.head_dim", &["head_dim"]),
    Key::FlagIs("kda.safe_gate", true),
    Key::Float("kda.gate_lower_bound", &["kda_lower_bound"]),
    Key::Int("attention.q_lora_rank", &["q_lora_rank"]),
    Key::Int("attention.kv_lora_rank", &["kv_lora_rank"]),
    Key::Int("rope.dimension_count", &["qk_rope_head_dim"]),
    Key::Sum("attention.key_length", &["kv_lora_rank"], &["qk_rope_head_dim"]),
    Key::Int("attention.value_length", &["kv_lora_rank"]),
    Key::Sum("attention.key_length_mla", &["qk_nope_head_dim"], &["qk_rope_head_dim"]),
    Key::Int("attention.value_length_mla", &["v_head_dim"]),
    Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
    Key::Int("expert_shared_feed_forward_length", &["moe_shared_expert_intermediate_size"]),
    Key::IntElse("expert_shared_count", &["num_shared_experts"], 1),
    Key::Int("leading_dense_block_count", &["first_k_dense_replace"]),
    Key::Float("expert_weights_scale", &["routed_scaling_factor"]),
    Key::Flag("expert_weights_norm", &["norm_topk_prob"]),
    Key::IntDefault("expert_gating_func", 2),
    Key::FloatsOrZero("swiglu_clamp_exp", "expert_swiglu_limit_list"),
    Key::FloatsOrZero("swiglu_clamp_shexp", "share_expert_swiglu_limit_list"),
];

/// Kimi Delta Attention and latent attention; gates of both have one name.
const NAMES: &[Names] = &[
    laid("layers.#.attention.A_log", "blk.#.ssm_a", Layout::Column).op(Op::Exp),
    same("layers.#.attention.dt_bias", "blk.#.ssm_dt.bias"),
    same("layers.#.attention.f_proj", "blk.#.ssm_f_a"),
    laid(
        "layers.#.attention.g_proj",
        "blk.#.ssm_g_a",
        Layout::AtGroupEnds(GROUP, "blk.#.attn_gate"),
    ),
    same("layers.#.attention.b_proj", "blk.#.ssm_beta"),
    same("layers.#.attention.o_norm", "blk.#.ssm_norm"),
    same("layers.#.attention.q_conv1d", "blk.#.ssm_conv1d_q"),
    same("layers.#.attention.k_conv1d", "blk.#.ssm_conv1d_k"),
    same("layers.#.attention.v_conv1d", "blk.#.ssm_conv1d_v"),
    same("layers.#.attention.q_proj", "blk.#.attn_q"),
    same("layers.#.attention.k_proj", "blk.#.attn_k"),
    same("layers.#.attention.v_proj", "blk.#.attn_v"),
    same("layers.#.attention.o_proj", "blk.#.attn_output"),
    same("layers.#.attention.q_a_proj", "blk.#.attn_q_a"),
    same("layers.#.attention.q_a_layernorm", "blk.#.attn_q_a_norm"),
    same("layers.#.attention.q_b_proj", "blk.#.attn_q_b"),
    same("layers.#.attention.kv_a_proj_with_mqa", "blk.#.attn_kv_a_mqa"),
    same("layers.#.attention.kv_a_layernorm", "blk.#.attn_kv_a_norm"),
    split(
        "layers.#.attention.kv_b_proj",
        &[("blk.#.attn_k_b", Rows::LatentKeys), ("blk.#.attn_v_b", Rows::LatentValues)],
    ),
];

/// What layers behind the last have beside the others' names: they draft tokens.
const DRAFTS: &[Names] = &[
    dropped("layers.#.eh_proj"),
    dropped("layers.#.enorm"),
    dropped("layers.#.hnorm"),
    dropped("layers.#.final_layernorm"),
    dropped("layers.#.shared_head.norm"),
    dropped("layers.#.shared_head.head"),
];

/// What brings pictures into the text.
const PICTURES: &[Names] = &[dropped("linear_proj.0"), dropped("linear_proj.2")];
