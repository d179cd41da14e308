//! Baichuan (arXiv:2309.10305): the 7B model rotates, the 13B model has ALiBi.

use crate::model::{Hparams, ModelError, ModelSpec};

const LAYERS_7B: usize = 32;
const LAYERS_13B: usize = 40;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?;
    Ok(match h.n_layers {
        LAYERS_7B => spec,
        LAYERS_13B => spec.alibi(8.0),
        // There is no such model; the reference takes it to have neither.
        _ => spec.positions(false),
    })
}
