//! MiniMax M2: norms of all queries and keys.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // The experts are as wide as the metadata's dense part.
    h.hide("expert_feed_forward_length");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::Whole);
    let spec = spec.expert_gating(h, ExpertGating::Sigmoid)?;
    Ok(spec.each_moe(|_, moe| moe.normalize_weights = true))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MiniMaxM2ForCausalLM"],
    arch: "minimax-m2",
    when: When::Always,
    tensors: &[NAMES, super::llama::MIXTRAL, DECODER],
    keys: &[&[
        Key::Int("expert_feed_forward_length", &["intermediate_size"]),
        Key::RotaryShare(&[], 1.0),
        Key::Int("rope.dimension_count", &["rotary_dim"]),
        Key::IntDefault("expert_gating_func", 2),
    ]],
}];

const NAMES: &[Names] =
    &[same("layers.#.block_sparse_moe.e_score_correction_bias", "blk.#.exp_probs_b.bias")];
