//! Jais (arXiv:2308.16149): ALiBi, scores scaled by the head.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, VOCAB, When, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let exponent = h.f32("attention.max_alibi_bias")?.unwrap_or(0.0);
    let spec = ModelSpec::unscaled(h)?.alibi(exponent);
    Ok(spec.each_attention(|_, attention| attention.scale = 1.0 / attention.k_dim as f32))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["JAISLMHeadModel"],
    arch: "jais",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[
        VOCAB,
        &[
            Key::MustBeText("position_embedding_type", "alibi"),
            Key::MustBeText("activation_function", "swiglu"),
            Key::Needs("n_inner"),
            // Unless the slopes are there, and say something else.
            Key::FloatElse("attention.max_alibi_bias", &[], 8.0),
        ],
    ],
}];

/// Factors of the embeddings: newer configurations have the names of muP.
const EMBED: &[&str] = &["mup_embeddings_scale", "embeddings_scale"];
/// Factors of the logits, likewise.
const LOGITS: &[&str] = &["mup_output_alpha", "mup_width_scale", "width_scale"];

const NAMES: &[Names] = &[
    laid("wte", "token_embd", Layout::AndHeadIfTied("output", LOGITS)).scaled(EMBED),
    same("ln_f", "output_norm"),
    same("lm_head", "output").scaled(LOGITS),
    laid("relative_pe.slopes", "attention.max_alibi_bias", Layout::Slopes),
    same("h.#.ln_1", "blk.#.attn_norm"),
    same("h.#.ln_2", "blk.#.ffn_norm"),
    laid("h.#.attn.c_attn", "blk.#.attn_qkv", Layout::Transposed),
    laid("h.#.attn.c_proj", "blk.#.attn_output", Layout::Transposed),
    laid("h.#.mlp.c_fc", "blk.#.ffn_up", Layout::Transposed),
    laid("h.#.mlp.c_fc2", "blk.#.ffn_gate", Layout::Transposed),
    laid("h.#.mlp.c_proj", "blk.#.ffn_down", Layout::Transposed),
];
