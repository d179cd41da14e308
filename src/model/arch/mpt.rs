//! MPT: ALiBi or learned positions, clamped queries, keys and values.

use crate::model::checkpoint::{Checkpoint, Key, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, QkNorm};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let exponent = h.f32("attention.max_alibi_bias")?.unwrap_or(0.0);
    let spec = ModelSpec::gpt_like(h)?.layer_norms().clamped(h)?;
    let mut spec = spec.positions(h.has_tensor("position_embd.weight"));
    if exponent > 0.0 {
        spec = spec.alibi(exponent);
    }
    if h.has_tensor("blk.0.attn_q_norm.weight") {
        spec = spec.qk_norms(QkNorm::Whole);
    } else {
        // The reference implementation norms both or none.
        spec.unused = &["attn_k_norm."];
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MPTForCausalLM", "MptForCausalLM"],
    arch: "mpt",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::Times("feed_forward_length", &["d_model"], 4),
        Key::Product("feed_forward_length", &["d_model"], &["expansion_ratio"]),
        Key::Int("attention.head_count_kv", &["attn_config.kv_n_heads"]),
        Key::FloatElse("attention.layer_norm_epsilon", &["layer_norm_epsilon"], 1e-5),
        Key::Float("attention.clamp_kqv", &["attn_config.clip_qkv"]),
        Key::FloatWhen(
            "attention.max_alibi_bias",
            "attn_config.alibi_bias_max",
            "attn_config.alibi",
        ),
    ]],
}];

const NAMES: &[Names] = &[
    same("wte", "token_embd"),
    same("wpe", "position_embd"),
    same("lm_head", "output"),
    same("norm_f", "output_norm"),
    same("blocks.#.norm_1", "blk.#.attn_norm"),
    same("blocks.#.norm_2", "blk.#.ffn_norm"),
    same("blocks.#.attn.Wqkv", "blk.#.attn_qkv"),
    same("blocks.#.attn.q_ln", "blk.#.attn_q_norm"),
    same("blocks.#.attn.k_ln", "blk.#.attn_k_norm"),
    same("blocks.#.attn.out_proj", "blk.#.attn_output"),
    same("blocks.#.ffn.up_proj", "blk.#.ffn_up"),
    same("blocks.#.ffn.down_proj", "blk.#.ffn_down"),
];
