//! DBRX: layer norms, clamped queries, keys and values.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, When, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.layer_norms();
    spec = spec.rope(RopePairing::Neox).clamped(h)?;
    spec.layers.iter_mut().for_each(|l| l.norms.before_ffn = Some("attn_output_norm"));
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["DbrxForCausalLM"],
    arch: "dbrx",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::Int("feed_forward_length", &["ffn_config.ffn_hidden_size"]),
        Key::Int("attention.head_count_kv", &["attn_config.kv_n_heads"]),
        Key::Float("attention.clamp_kqv", &["attn_config.clip_qkv"]),
        Key::Int("expert_count", &["ffn_config.moe_num_experts"]),
        Key::Int("expert_used_count", &["ffn_config.moe_top_k"]),
        Key::FloatIs("attention.layer_norm_epsilon", 1e-5),
    ]],
}];

/// Entries with the number of experts.
const EXPERTS: &[&str] = &["ffn_config.moe_num_experts"];

const NAMES: &[Names] = &[
    same("wte", "token_embd"),
    same("lm_head", "output"),
    same("norm_f", "output_norm"),
    same("blocks.#.norm_attn_norm.norm_1", "blk.#.attn_norm"),
    same("blocks.#.norm_attn_norm.norm_2", "blk.#.attn_output_norm"),
    same("blocks.#.norm_attn_norm.attn.Wqkv", "blk.#.attn_qkv"),
    same("blocks.#.norm_attn_norm.attn.out_proj", "blk.#.attn_output"),
    same("blocks.#.ffn.router.layer", "blk.#.ffn_gate_inp"),
    laid("blocks.#.ffn.experts.mlp.w1", "blk.#.ffn_gate_exps.weight", Layout::Stacked(EXPERTS)),
    laid("blocks.#.ffn.experts.mlp.v1", "blk.#.ffn_up_exps.weight", Layout::Stacked(EXPERTS)),
    laid(
        "blocks.#.ffn.experts.mlp.w2",
        "blk.#.ffn_down_exps.weight",
        Layout::StackedTransposed(EXPERTS),
    ),
];
