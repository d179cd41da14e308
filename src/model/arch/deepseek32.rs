//! DeepSeek V3.2 (arXiv:2512.02556) within contexts that its indexer would choose all of: there
//! sparse attention is attention.

use super::deepseek2::deepseek;
use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, VOCAB, When, same};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // Of the indexer's norm.
    h.hide("attention.layer_norm_epsilon");
    h.rope_sections();
    let mut spec = deepseek(h, ExpertGating::Softmax, |_| 1.0)?.apply_ffn_scales();
    spec.dense_within(h)?;
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["DeepseekV32ForCausalLM"],
    arch: "deepseek32",
    when: When::Always,
    tensors: &[INDEXER, super::deepseek2::LATENTS, EXPERTS, DECODER],
    keys: &[VOCAB, super::deepseek2::KEYS, INDEXER_KEYS],
}];

/// Names of the indexer's tensors, which choose the tokens that are attended to.
pub const INDEXER: &[Names] = &[
    same("layers.#.self_attn.indexer.k_norm", "blk.#.indexer.k_norm"),
    same("layers.#.self_attn.indexer.weights_proj", "blk.#.indexer.proj"),
    same("layers.#.self_attn.indexer.wk", "blk.#.indexer.attn_k"),
    same("layers.#.self_attn.indexer.wq_b", "blk.#.indexer.attn_q_b"),
];

/// The indexer, and the sigmoid of routers.
pub const INDEXER_KEYS: &[Key] = &[
    Key::Int("attention.indexer.head_count", &["index_n_heads"]),
    Key::Int("attention.indexer.key_length", &["index_head_dim"]),
    Key::Int("attention.indexer.top_k", &["index_topk"]),
    Key::IntDefault("expert_gating_func", 2),
];
