//! PLaMo 1: the feed-forward part beside the attention, on one norm.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, VOCAB, When, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox).parallel("attn_norm"))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["PlamoForCausalLM"],
    arch: "plamo",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[
        VOCAB,
        &[
            Key::IntElse("context_length", &["max_position_embeddings"], 4096),
            // `num_key_value_heads` says something that its code does not read.
            Key::Share("attention.head_count_kv", HEADS, 1, SHARED),
            Key::Quotient("attention.head_count_kv", HEADS, &[SHARED_ENTRY]),
        ],
    ],
}];

const HEADS: &[&str] = &["num_attention_heads"];
/// Queries that share a head of keys: the entry, and how many if it is not there.
const SHARED_ENTRY: &str = "n_shared_head";
const SHARED: u64 = 8;

const NAMES: &[Names] = &[
    same("embed_tokens", "token_embd"),
    same("norm", "output_norm"),
    same("lm_head", "output"),
    same("layers.layers.#.norm", "blk.#.attn_norm"),
    laid(
        "layers.layers.#.self_attn.q_proj",
        "blk.#.attn_q",
        Layout::UntiledRows(SHARED_ENTRY, SHARED),
    ),
    same("layers.layers.#.self_attn.k_proj", "blk.#.attn_k"),
    same("layers.layers.#.self_attn.v_proj", "blk.#.attn_v"),
    laid(
        "layers.layers.#.self_attn.o_proj",
        "blk.#.attn_output",
        Layout::UntiledColumns(SHARED_ENTRY, SHARED),
    ),
    same("layers.layers.#.mlp.gate_proj", "blk.#.ffn_gate"),
    same("layers.layers.#.mlp.up_proj", "blk.#.ffn_up"),
    same("layers.layers.#.mlp.down_proj", "blk.#.ffn_down"),
];
