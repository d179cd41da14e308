//! EXAONE 4 (arXiv:2507.11407): norms after each part; the 32B model has sliding windows with rotation
//! and full attention without.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec, NormPlacement, RopePairing};

/// Layers of the 32B model.
const LAYERS_32B: usize = 64;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().norms(NormPlacement::POST);
    // Other models have windows if their files say which layers do.
    if h.n_layers == LAYERS_32B || h.has_pattern("attention.sliding_window_pattern") {
        let spec = spec.sliding(h, 4, Some(4096))?;
        return Ok(spec.no_rope(|_, attention| attention.window.is_none()));
    }
    // Written for models without windows, too.
    let _ = h.u64("attention.sliding_window")?;
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Exaone4ForCausalLM", "Exaone4_5_ForConditionalGeneration"],
    arch: "exaone4",
    when: When::Always,
    tensors: &[super::olmo2::POST_NORMS, DECODER],
    keys: &[VOCAB, WINDOWS],
}];

/// Layers with windows, where there are some.
pub const WINDOWS: &[Key] = &[
    Key::Int("attention.sliding_window", &["sliding_window"]),
    Key::PatternWhen(
        "sliding_window",
        "attention.sliding_window_pattern",
        "layer_types",
        "sliding_attention",
    ),
];
