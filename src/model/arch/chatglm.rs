//! ChatGLM 2 to 4 (arXiv:2406.12793).

use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp))
}
