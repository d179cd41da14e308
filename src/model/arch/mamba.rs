//! Mamba (arXiv:2312.00752) and Falcon Mamba: state spaces alone.

use crate::model::{Ffn, Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    state_spaces(h, StateSpaceSpec::one(h)?)
}

/// Mamba 2 (arXiv:2405.21060).
pub fn spec2(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    state_spaces(h, StateSpaceSpec::two(h)?)
}

fn state_spaces(h: &Hparams<'_>, space: StateSpaceSpec) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let mut spec = ModelSpec::unscaled(h)?;
    for layer in &mut spec.layers {
        (layer.mixer, layer.ffn) = (Mixer::StateSpace(space.clone()), Ffn::None);
    }
    Ok(spec)
}
