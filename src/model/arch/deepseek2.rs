//! DeepSeek V2 and V3 (arXiv:2405.04434, arXiv:2412.19437) and its relatives: latent attention,
//! shared experts.

use crate::model::checkpoint::{
    Checkpoint, DECODER, EXPERTS, Key, Names, Rows, VOCAB, When, same, split,
};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

/// Layers and vocabulary of GLM 4.7 Flash, whose files do not name the sigmoid of its router.
const GLM_FLASH: ([usize; 2], u64) = ([47, 48], 154_880);

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let is_glm = GLM_FLASH.0.contains(&h.n_layers) && h.u64("vocab_size")? == Some(GLM_FLASH.1);
    let gating = if is_glm { ExpertGating::Sigmoid } else { ExpertGating::Softmax };
    deepseek(h, gating, |all| if all == 1.0 { 1.0 } else { all })
}

/// The common shape. `mscale`: YaRN's factor of cosine and sine, by that of the scores.
pub(super) fn deepseek(
    h: &Hparams<'_>,
    gating: ExpertGating,
    mscale: impl Fn(f32) -> f32,
) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.mla(h)?;
    // A tenth of YaRN's factor `mscale_all_dim`, as the conversion writes it.
    let all = h.f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0) / 0.1;
    spec = spec.each_mla(|_, latent| {
        let Some(rope) = &mut latent.rope else { return };
        let magnitude = match all {
            0.0 => rope.magnitude * rope.scaling.mscale(1.0),
            all => rope.magnitude * rope.scaling.mscale(mscale(all)) / rope.scaling.mscale(all),
        };
        rope.magnitude = magnitude / rope.scaling.mscale(1.0);
        latent.scale *= (magnitude * rope.scaling.mscale(all)).powi(2);
    });
    let period = h.optional_length("attention.temperature_length")?.unwrap_or(h.n_ctx_train);
    let spec = spec.temperature(h, period)?;
    spec.shared_expert(h)?.expert_gating(h, gating)?.dense_lead(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["DeepseekV2ForCausalLM", "YoutuForCausalLM"],
        arch: "deepseek2",
        when: When::Always,
        tensors: &[LATENTS, EXPERTS, DECODER],
        keys: &[VOCAB, KEYS],
    },
    Checkpoint {
        classes: &["DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM"],
        arch: "deepseek2",
        when: When::Always,
        tensors: &[LATENTS, EXPERTS, DECODER],
        keys: &[VOCAB, KEYS, &[Key::IntDefault("expert_gating_func", 2)]],
    },
];

/// Names of latent attention's tensors.
pub const LATENTS: &[Names] = &[
    same("layers.#.self_attn.q_a_proj", "blk.#.attn_q_a"),
    same("layers.#.self_attn.q_a_layernorm", "blk.#.attn_q_a_norm"),
    same("layers.#.self_attn.q_b_proj", "blk.#.attn_q_b"),
    same("layers.#.self_attn.kv_a_proj_with_mqa", "blk.#.attn_kv_a_mqa"),
    same("layers.#.self_attn.kv_a_layernorm", "blk.#.attn_kv_a_norm"),
    split(
        "layers.#.self_attn.kv_b_proj",
        &[("blk.#.attn_k_b", Rows::LatentKeys), ("blk.#.attn_v_b", Rows::LatentValues)],
    ),
];

/// Latent attention and experts.
pub const KEYS: &[Key] = &[
    Key::IntIs("attention.head_count_kv", 1),
    Key::FloatElse("attention.layer_norm_rms_epsilon", &["rms_norm_eps"], 1e-6),
    Key::IntElse("leading_dense_block_count", &["first_k_dense_replace"], 0),
    Key::Int("attention.q_lora_rank", &["q_lora_rank"]),
    Key::IntElse("attention.kv_lora_rank", &["kv_lora_rank"], 512),
    Key::Sum("attention.key_length", &["kv_lora_rank"], &["qk_rope_head_dim"]),
    Key::Int("attention.value_length", &["kv_lora_rank"]),
    Key::Sum("attention.key_length_mla", &["qk_nope_head_dim"], &["qk_rope_head_dim"]),
    Key::Int("attention.value_length_mla", &["v_head_dim"]),
    Key::Int("expert_feed_forward_length", &["moe_intermediate_size", "intermediate_size"]),
    Key::IntElse("expert_shared_count", &["n_shared_experts"], 0),
    Key::Float("expert_weights_scale", &["routed_scaling_factor"]),
    Key::Flag("expert_weights_norm", &["norm_topk_prob"]),
    Key::Int("rope.dimension_count", &["qk_rope_head_dim"]),
    Key::Rope("rope.scaling.yarn_log_multiplier", "mscale_all_dim", 0.1),
];
