//! Qwen 3 Next and Qwen 3.5: Gated DeltaNet, every fourth layer gated attention.

use crate::model::checkpoint::{
    Checkpoint, DECODER, EXPERTS, Key, Layout, Names, Op, PerHead, When, changed, laid, same,
};
use crate::model::{
    AttentionGate, DeltaSpec, Hparams, KeyHeads, Mixer, ModelError, ModelSpec, RopePairing,
    SharedExpert, TensorUse,
};

/// Qwen 3 Next.
pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut delta = DeltaSpec::heads(h, KeyHeads::Grouped)?;
    delta.scales = TensorUse::Ignore;
    let mut spec = deltas(h, delta)?;
    // The same weights as `attn_qkv` and `attn_gate` in an older order.
    spec.unused = &["ssm_in."];
    Ok(spec)
}

/// Qwen 3.5, dense or with experts.
pub fn spec35(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    deltas(h, DeltaSpec::heads(h, KeyHeads::Tiled)?)
}

fn deltas(h: &Hparams<'_>, delta: DeltaSpec) -> Result<ModelSpec, ModelError> {
    let interval = h.u64("full_attention_interval")?.unwrap_or(4);
    let recurrent = h.pattern("attention.recurrent_layers", interval)?;
    let width = h.optional_length("expert_shared_feed_forward_length")?;
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm().attention_scale(h)?;
    let mut spec = spec.each_attention(|_, attention| attention.gate = AttentionGate::InQuery);
    for (layer, recurrent) in spec.layers.iter_mut().zip(recurrent) {
        layer.norms.before_ffn = Some("post_attention_norm");
        if recurrent {
            layer.mixer = Mixer::Delta(delta.clone());
        }
    }
    Ok(spec.each_moe(|i, moe| {
        let n_ff = h.shared_width(i).or(width).unwrap_or(moe.n_ff);
        moe.shared = Some(SharedExpert { n_ff, suffix: "_shexp", gated: true, clamp: None });
    }))
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Qwen3NextForCausalLM"],
        arch: "qwen3next",
        when: When::Always,
        tensors: &[NORMS, GROUPED, EXPERTS, DECODER],
        keys: &[super::qwen2moe::EXPERT_WIDTHS, DELTA],
    },
    Checkpoint {
        classes: &["Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"],
        arch: "qwen35",
        when: When::Always,
        tensors: &[NORMS, TILED, DECODER],
        keys: &[DELTA],
    },
    Checkpoint {
        classes: &["Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"],
        arch: "qwen35moe",
        when: When::Always,
        tensors: &[NORMS, TILED, EXPERTS, DECODER],
        keys: &[super::qwen2moe::EXPERT_WIDTHS, DELTA],
    },
];

const DELTA: &[Key] = &[
    Key::Int("ssm.conv_kernel", &["linear_conv_kernel_dim"]),
    Key::Int("ssm.state_size", &["linear_key_head_dim"]),
    Key::Int("ssm.group_count", &["linear_num_key_heads"]),
    Key::Int("ssm.time_step_rank", &["linear_num_value_heads"]),
    Key::Product("ssm.inner_size", &["linear_value_head_dim"], &["linear_num_value_heads"]),
    Key::Pattern("attention.recurrent_layers", "layer_types", "linear_attention"),
    Key::IntElse("full_attention_interval", &["full_attention_interval"], 4),
    Key::RotaryRope(0.25),
];

/// Norms, which multiply by 1 + w but in the delta rule.
const NORMS: &[Names] = &[
    changed("norm", "output_norm", Op::PlusOne),
    changed("layers.#.input_layernorm", "blk.#.attn_norm", Op::PlusOne),
    changed("layers.#.post_attention_layernorm", "blk.#.post_attention_norm", Op::PlusOne),
    changed("layers.#.self_attn.q_norm", "blk.#.attn_q_norm", Op::PlusOne),
    changed("layers.#.self_attn.k_norm", "blk.#.attn_k_norm", Op::PlusOne),
    same("layers.#.linear_attn.norm", "blk.#.ssm_norm"),
];

const GROUPED: &[Names] = &[
    laid("layers.#.linear_attn.in_proj_qkvz", "", Layout::DeltaQkvz),
    same("layers.#.linear_attn.in_proj_ba", "blk.#.ssm_ba"),
    laid("layers.#.linear_attn.conv1d", "blk.#.ssm_conv1d", Layout::Squeezed),
    changed("layers.#.linear_attn.A_log", "blk.#.ssm_a", Op::NegExp),
    same("layers.#.linear_attn.dt_bias", "blk.#.ssm_dt.bias"),
    same("layers.#.linear_attn.out_proj", "blk.#.ssm_out"),
];

const TILED: &[Names] = &[
    laid("layers.#.linear_attn.in_proj_qkv", "blk.#.attn_qkv", Layout::TiledBehindKeys),
    laid("layers.#.linear_attn.in_proj_z", "blk.#.attn_gate", Layout::TiledRows(PerHead::Value)),
    laid("layers.#.linear_attn.in_proj_b", "blk.#.ssm_beta", Layout::TiledRows(PerHead::One)),
    laid("layers.#.linear_attn.in_proj_a", "blk.#.ssm_alpha", Layout::TiledRows(PerHead::One)),
    laid("layers.#.linear_attn.conv1d", "blk.#.ssm_conv1d", Layout::TiledBehindKeys),
    laid("layers.#.linear_attn.A_log", "blk.#.ssm_a", Layout::TiledRows(PerHead::One))
        .op(Op::NegExp),
    laid("layers.#.linear_attn.dt_bias", "blk.#.ssm_dt.bias", Layout::TiledRows(PerHead::One)),
    laid("layers.#.linear_attn.out_proj", "blk.#.ssm_out", Layout::TiledColumns),
];
