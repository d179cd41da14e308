//! StableLM 2 and 3B (arXiv:2402.17834): layer norms, also of each query and key head.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::OwnHeads);
    Ok(match h.bool("use_parallel_residual")? {
        Some(true) if !h.has_tensor("blk.0.ffn_norm.weight") => spec.parallel("attn_norm"),
        _ => spec,
    })
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
    arch: "stablelm",
    when: When::Always,
    tensors: &[NORMS, DECODER],
    keys: &[&[
        Key::RotaryShare(&["rope_pct"], 0.25),
        Key::FlagElse("use_parallel_residual", &["use_parallel_residual"], true),
        Key::FloatElse("attention.layer_norm_epsilon", &["layer_norm_eps", "norm_eps"], 1e-5),
        Key::Without("attention.layer_norm_rms_epsilon"),
    ]],
}];

/// Norms of heads, one tensor each.
const NORMS: &[Names] = &[
    same("layers.#.self_attn.q_layernorm.norms.@", "blk.#.attn_q_norm"),
    same("layers.#.self_attn.k_layernorm.norms.@", "blk.#.attn_k_norm"),
];
