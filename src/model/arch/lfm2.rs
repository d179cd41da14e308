//! LFM2 (arXiv:2511.23404): short convolutions with a few layers of attention.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, VOCAB, When, laid, same};
use crate::model::{
    ExpertGating, Hparams, Mixer, ModelError, ModelSpec, RopePairing, ShortConvSpec,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.sliding_window_pattern");
    h.hide("leading_dense_block_count");
    let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
    Ok(convolutions(h)?.each_attention(|_, attention| attention.window = window))
}

/// LFM2 with experts.
pub fn moe(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = convolutions(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    spec.each_moe(|_, moe| moe.normalize_weights = true).dense_lead(h)
}

fn convolutions(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let taps = h.length("shortconv.l_cache")?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    let mut spec = spec.recurrent(&Mixer::ShortConv(ShortConvSpec { taps }));
    spec.head.norm = Some("token_embd_norm");
    Ok(spec)
}

/// Kinds of layers: those with attention have heads of keys, the others convolve.
const LAYERS: &[Key] = &[
    Key::WhereIs(
        "attention.head_count_kv",
        &["num_key_value_heads"],
        &["layer_types"],
        &["full_attention"],
    ),
    Key::Int("shortconv.l_cache", &["conv_L_cache"]),
];

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Lfm2ForCausalLM", "LFM2ForCausalLM"],
        arch: "lfm2",
        when: When::Always,
        tensors: &[NAMES],
        keys: &[VOCAB, LAYERS, &[Key::AdjustedWidth(&["block_ff_dim", "intermediate_size"])]],
    },
    Checkpoint {
        classes: &["Lfm2MoeForCausalLM"],
        arch: "lfm2moe",
        when: When::Always,
        tensors: &[MOE, NAMES],
        keys: &[
            VOCAB,
            LAYERS,
            &[
                Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
                Key::Int("leading_dense_block_count", &["num_dense_layers"]),
                Key::IntIs("expert_gating_func", 2),
            ],
        ],
    },
];

const MOE: &[Names] = &[
    same("layers.#.feed_forward.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.feed_forward.expert_bias", "blk.#.exp_probs_b.bias"),
    same("layers.#.feed_forward.experts.@.w1", "blk.#.ffn_gate_exps"),
    same("layers.#.feed_forward.experts.@.w2", "blk.#.ffn_down_exps"),
    same("layers.#.feed_forward.experts.@.w3", "blk.#.ffn_up_exps"),
];

const NAMES: &[Names] = &[
    same("embed_tokens", "token_embd"),
    same("embedding_norm", "token_embd_norm"),
    same("lm_head", "output"),
    same("layers.#.operator_norm", "blk.#.attn_norm"),
    same("layers.#.ffn_norm", "blk.#.ffn_norm"),
    same("layers.#.conv.in_proj", "blk.#.shortconv.in_proj"),
    same("layers.#.conv.out_proj", "blk.#.shortconv.out_proj"),
    laid("layers.#.conv.conv", "blk.#.shortconv.conv", Layout::Squeezed),
    same("layers.#.self_attn.q_proj", "blk.#.attn_q"),
    same("layers.#.self_attn.k_proj", "blk.#.attn_k"),
    same("layers.#.self_attn.v_proj", "blk.#.attn_v"),
    same("layers.#.self_attn.out_proj", "blk.#.attn_output"),
    same("layers.#.self_attn.q_layernorm", "blk.#.attn_q_norm"),
    same("layers.#.self_attn.k_layernorm", "blk.#.attn_k_norm"),
    same("layers.#.feed_forward.w1", "blk.#.ffn_gate"),
    same("layers.#.feed_forward.w2", "blk.#.ffn_down"),
    same("layers.#.feed_forward.w3", "blk.#.ffn_up"),
];
