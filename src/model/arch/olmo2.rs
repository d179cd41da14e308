//! OLMo 2 and 3 (arXiv:2501.00656): norms after each part, and of all queries and keys.

use crate::model::checkpoint::{Checkpoint, DECODER, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, NormPlacement, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // All layers turn by the same base.
    h.hide("rope.freq_base_swa");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::Whole);
    spec.norms(NormPlacement::POST).sliding(h, 4, None)?.plain_window_ropes(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Olmo2ForCausalLM", "Olmo3ForCausalLM"],
    arch: "olmo2",
    when: When::Always,
    tensors: &[POST_NORMS, DECODER],
    keys: &[super::exaone4::WINDOWS],
}];

/// Norms of what layers add.
pub const POST_NORMS: &[Names] = &[
    same("layers.#.post_attention_layernorm", "blk.#.post_attention_norm"),
    same("layers.#.post_feedforward_layernorm", "blk.#.post_ffw_norm"),
];
