//! MiMo V2: sliding windows with sinks.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, VOCAB, When, same};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing, TensorUse};

/// Base of the rotation in layers with a window, where the metadata has none.
const WINDOW_FREQ_BASE: f32 = 10_000.0;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let value_scale = h.f32("attention.value_scale")?.filter(|&scale| scale != 0.0);
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).sliding(h, 1, None)?;
    let spec = spec.window_ropes(h, Some(WINDOW_FREQ_BASE))?;
    let has = |i: usize, name: &str| h.has_tensor(&format!("blk.{i}.{name}.weight"));
    let spec = spec.each_attention(|i, attention| {
        attention.sinks = has(i, "attn_sinks");
        attention.value_scale = value_scale.unwrap_or(1.0);
        attention.qkv_scales = TensorUse::Ignore;
        attention.qkv_biases = TensorUse::Ignore;
    });
    let mut spec = spec.each_moe(|_, moe| moe.gating = ExpertGating::Sigmoid);
    spec.unused = super::hy_v3::BESIDE_EXPERTS;
    spec.dense_where(h, |i| !has(i, "ffn_gate_inp"))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MiMoV2FlashForCausalLM"],
    arch: "mimo2",
    when: When::Always,
    tensors: &[NAMES, EXPERTS, DECODER],
    keys: &[
        VOCAB,
        super::qwen2moe::EXPERT_WIDTHS,
        &[
            Key::Float("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "layernorm_epsilon"]),
            Key::WindowInts(
                "attention.head_count_kv",
                &["num_key_value_heads"],
                &["swa_num_key_value_heads"],
                2,
            ),
            Key::Int("attention.value_length", &["v_head_dim"]),
            Key::FloatElse("attention.value_scale", &["attention_value_scale"], 1.0),
            Key::MustAgreeIfThere("swa_head_dim", "head_dim"),
            Key::MustAgreeIfThere("swa_v_head_dim", "v_head_dim"),
            Key::MustAgreeIfThere("swa_num_attention_heads", "num_attention_heads"),
            Key::MustBeText("topk_method", "noaux_tc"),
            Key::MustEqual("routed_scaling_factor", 1.0),
            Key::MustEqual("n_group", 1.0),
            Key::MustBe("add_full_attention_sink_bias", false),
            Key::Without("expert_group_count"),
            Key::Without("expert_group_used_count"),
            // A window of the original counts what is before a token.
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::Plus("attention.sliding_window", &["sliding_window_size"], 1),
            Key::Windows("attention.sliding_window_pattern"),
            Key::RotaryShare(&[], 0.334),
            Key::WindowRotary,
            Key::MustBeText("scoring_func", "sigmoid"),
            Key::Without("expert_gating_func"),
        ],
    ],
}];

const NAMES: &[Names] =
    &[same("layers.#.self_attn.attention_sink_bias", "blk.#.attn_sinks.weight")];
