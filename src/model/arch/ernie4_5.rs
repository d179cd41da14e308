//! ERNIE 4.5, dense and with experts.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, Rows, When, same, split};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    for key in ["expert_count", "expert_used_count"] {
        h.hide(key);
    }
    Ok(ModelSpec::unscaled(h)?.ignore_output_bias())
}

/// Ernie 4.5 with experts, in every layer behind the leading ones.
pub fn moe(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    let step = h.u64("interleave_moe_layer_step")?;
    if step != Some(1) {
        return Err(h.bad("interleave_moe_layer_step", "is not 1, not supported"));
    }
    let spec = ModelSpec::unscaled(h)?.ignore_output_bias().shared_expert(h)?;
    spec.each_moe(|_, moe| moe.gating = ExpertGating::Softmax).dense_lead(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
        arch: "ernie4_5",
        when: When::Always,
        tensors: &[FUSED, DECODER],
        keys: &[],
    },
    Checkpoint {
        classes: &["Ernie4_5_MoeForCausalLM"],
        arch: "ernie4_5-moe",
        when: When::Always,
        tensors: &[FUSED, MOE, EXPERTS, DECODER],
        keys: &[&[
            Key::Int("expert_count", &["moe_num_experts"]),
            Key::Int("expert_used_count", &["moe_k"]),
            Key::Int("interleave_moe_layer_step", &["moe_layer_interval"]),
            Key::Int("leading_dense_block_count", &["moe_layer_start_index"]),
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::Int("expert_shared_count", &["moe_num_shared_experts"]),
        ]],
    },
];

/// Products that some checkpoints have as one.
pub const FUSED: &[Names] = &[
    split(
        "layers.#.self_attn.qkv_proj",
        &[
            ("blk.#.attn_q", Rows::Queries),
            ("blk.#.attn_k", Rows::Keys),
            ("blk.#.attn_v", Rows::Values),
        ],
    ),
    split(
        "layers.#.mlp.up_gate_proj",
        &[("blk.#.ffn_gate", Rows::FirstHalf), ("blk.#.ffn_up", Rows::SecondHalf)],
    ),
];

const MOE: &[Names] =
    &[same("layers.#.mlp.moe_statics.e_score_correction_bias", "blk.#.exp_probs_b.bias")];
