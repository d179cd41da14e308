//! K-EXAONE: EXAONE 4 with experts and norms before each part.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, VOCAB, When, same};
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec =
        ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().sliding(h, 4, Some(128))?;
    let spec = spec.no_rope(|_, attention| attention.window.is_none());
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Softmax)?.dense_lead(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"],
    arch: "exaone-moe",
    when: When::Always,
    tensors: &[NAMES, EXPERTS, DECODER],
    keys: &[
        VOCAB,
        super::exaone4::WINDOWS,
        super::dots1::KEYS,
        &[Key::TextIs("rope.scaling.type", "none")],
    ],
}];

const NAMES: &[Names] = &[same("layers.#.mlp.e_score_correction_bias", "blk.#.exp_probs_b.bias")];
